"""Multi-label classification: any number of labels for a text or a pair of texts.

The column ``label`` holds a row's labels as a list, as a list written as text, or as text with a ``separator`` between
labels. Alternatively, the setting ``label`` lists several columns: one column per label, with the values 1 and 0.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Source
from pipeline.tinybert.data.cells import BadRecordError, list_in_text
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.tasks.task import f1_of, occurrences, resampled_sums
from pipeline.tinybert.tasks.texts import SMALLEST_PROBABILITY, Texts, check_probabilities

BRACKETS = {"[": "]", "(": ")", "{": "}"}
ON, OFF = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")


class MultiLabel(Texts):
    accepts_label_columns: ClassVar = True
    source_settings: ClassVar = ("labels", "separator")
    loss: ClassVar = "soft_binary_cross_entropy"
    metrics: ClassVar = ("micro_f1", "macro_f1")
    problem_type: ClassVar = "multi_label_classification"

    def label(self, record: dict, source: Source) -> list[str]:
        if isinstance(source.label, list):
            if source.labels:
                raise UserError("source.labels: columns of 0 and 1 are named after their labels: remove `labels`")
            return sorted(str(column) for column in source.label if _is_on(record[column], column))
        column = source.label or self.columns["label"]
        cell = record[column]
        if isinstance(cell, str):
            cell = _labels_in_text(cell.strip(), source.separator or ",", column)
        if not isinstance(cell, list | tuple | np.ndarray) or any(map(_is_no_label, cell)):
            raise BadRecordError(
                f"column '{column}': expected a list of labels or a text with separators (empty: none), found {cell!r}",
                f"column '{column}': no list of labels",
            )
        if _is_multi_hot(cell):
            raise BadRecordError(
                f"column '{column}': {list(cell)} has a 0 or 1 for each label: write the names of the labels that are"
                " 1, or a column for each label",
                f"column '{column}': a 0 or 1 for each label in place of names",
            )
        names = {str(value): name for name, value in (source.labels or {}).items()}
        found = {str(label).strip() for label in cell} - {""}
        labels = sorted({names.get(label, label) for label in found})
        unknown = [label for label in labels if source.labels and label not in source.labels]
        if unknown:
            raise BadRecordError(f"label '{unknown[0]}' is not in the source's `labels` ({', '.join(names)})")
        return labels

    def target(self, row: Row) -> list[float]:
        return [float(name in row["label"]) for name in self.labels]

    def labels_in(self, row: Row) -> list[str]:
        return row["label"]

    def label_names(self, train: list[Row], source: Source, key: str) -> list[str]:
        counts = _counts(train)
        if len(counts) < 2:
            raise UserError(f"{key}: {len(counts)} labels in {len(train)} rows, expected two or more: check `label`")
        return [name for name in source.labels or counts if name in counts]

    def summary(self, rows: list[Row]) -> str:
        return ", ".join(f"{label} {count}" for label, count in _counts(rows).items())

    def logits_of_probabilities(self, numbers: np.ndarray) -> np.ndarray:
        check_probabilities(self.labels, numbers)
        from scipy.special import logit

        return logit(numbers.clip(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY))

    def predictions(self, logits: list[np.ndarray], data: Any, rows: list[Row]) -> list[list[str]]:
        """All labels with a probability of at least one half."""
        return [sorted(self.labels[index] for index in np.flatnonzero(row[0] >= 0)) for row in logits]

    def scorer(self, rows: list[Row], predictions: list[list[str]]) -> Callable[[np.ndarray], dict[str, float]]:
        actual = occurrences((row["label"] for row in rows), self.labels)
        predicted = occurrences(predictions, self.labels)
        correct, sizes = actual * predicted, actual + predicted

        def score(chosen: np.ndarray) -> dict[str, Any]:
            right, size = resampled_sums(correct, chosen), resampled_sums(sizes, chosen)
            by_label = f1_of(right, size)
            return {
                "micro_f1": float(f1_of(right.sum(), size.sum())),
                "macro_f1": float(by_label[size > 0].mean()) if size.any() else 0.0,
                "f1": dict(zip(self.labels, by_label.tolist(), strict=True)),
            }

        return score

    def calibration(
        self, rows: list[Row], predictions: list[list[str]], logits: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """For each label of each row: its probability, and whether the row has it."""
        from scipy.special import expit

        present = occurrences((row["label"] for row in rows), self.labels)
        return expit(np.concatenate(logits)).ravel(), present.toarray().ravel()

    def surest_mistakes(self, rows: list[Row], predictions: list[list[str]], logits: list[np.ndarray]) -> np.ndarray:
        probability, present = self.calibration(rows, predictions, logits)
        predicted = probability >= 0.5
        mistakes = np.where(predicted == present, 0.0, np.where(predicted, probability, 1 - probability))
        return mistakes.reshape(len(rows), -1).max(axis=1)

    def trivial_predictions(self, train: list[Row], rows: list[Row]) -> list[list[str]]:
        """Always the most frequent label."""
        return [[Counter(label for row in train for label in row["label"]).most_common(1)[0][0]]] * len(rows)

    def confusion(self, rows: list[Row], predictions: list[list[str]]) -> Iterator[tuple[str, str]]:
        """One pair per label that the row or the prediction has. "none" marks the side without it."""
        for row, predicted in zip(rows, predictions, strict=True):
            for name in sorted({*row["label"], *predicted}, key=self.labels.index):
                yield name if name in row["label"] else "none", name if name in predicted else "none"


def _labels_in_text(text: str, separator: str, column: Any) -> list:
    if (labels := list_in_text(text)) is not None:
        return labels
    names = [name.strip() for name in text.split(separator)]
    close = BRACKETS.get(text[:1])  # a bracket opens a list, or a label such as (other)
    is_open = close is not None and names[0].count(text[0]) != names[0].count(close)
    if close and (text[1:2] in ("'", '"') or (is_open and text.endswith(close))):
        raise BadRecordError(
            f"column '{column}': not a list that can be read: {text}: expected ['one', 'other']",
            f"column '{column}': not a list that can be read",
        )
    return names


def _is_multi_hot(cell: Any) -> bool:
    """Whether a list has a 0 or 1 for each label, some of them repeated. The names of labels do not repeat."""
    values = [value for value in cell if not isinstance(value, str) and value in (0, 1)]
    return len(values) == len(cell) > len(set(values))


def _is_no_label(label: Any) -> bool:
    return label is None or label != label or isinstance(label, list | dict)  # NaN differs from itself


def _is_on(cell: Any, column: str) -> bool:
    text = str(cell).strip().lower()
    if text not in (*ON, *OFF):
        raise BadRecordError(
            f"column '{column}': expected 1 or 0, found {cell!r}", f"column '{column}': neither 1 nor 0"
        )
    return text in ON


def _counts(rows: list[Row]) -> dict[str, int]:
    return dict(sorted(Counter(label for row in rows for label in row["label"]).items()))
