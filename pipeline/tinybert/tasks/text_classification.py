"""Classification of a text or a pair of texts into one of two or more classes."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Source
from pipeline.tinybert.data.cells import BadRecordError
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.tasks.task import balanced_weights
from pipeline.tinybert.tasks.texts import Texts


class TextClassification(Texts):
    has_one_class: ClassVar = True
    has_submissions: ClassVar = True
    problem_type: ClassVar = "single_label_classification"
    source_settings: ClassVar = ("labels",)
    loss: ClassVar = "soft_cross_entropy"
    metrics: ClassVar = ("accuracy", "macro_f1", "mcc")

    def label(self, record: dict, source: Source) -> str:
        column = source.label or self.columns["label"]
        label = record[column]
        if isinstance(label, list | tuple | np.ndarray) and len(label) == 1:  # some tools write one label in a list
            label = label[0]
        label = label.strip() if isinstance(label, str) else label
        if isinstance(label, list | tuple | dict | np.ndarray):
            raise BadRecordError(
                f"column '{column}': expected one label, found {label!r} (or kind multi_label)",
                f"column '{column}': more than one label",
            )
        if label is None or label != label or label == "":
            raise BadRecordError(f"column '{column}': no label")
        values = source.labels or {}  # label → its value in the source
        names = {name: name for name in values} | {str(value): name for name, value in values.items()}
        if names and str(label) not in names:
            raise BadRecordError(
                f"label '{label}' is not in the source's `labels` ({', '.join(map(str, values.values()))})"
            )
        return names.get(str(label), str(label))

    def target(self, row: Row) -> int:
        return self.labels.index(row["label"])

    def class_weights(self, rows: list[Row]) -> list[float]:
        counts = _counts(rows)
        return balanced_weights([counts.get(name, 0) for name in self.labels])

    def stratum(self, row: Row) -> str:
        return row["label"]

    def labels_in(self, row: Row) -> list[str]:
        return [row["label"]]

    def label_names(self, train: list[Row], source: Source, key: str) -> list[str]:
        """The labels of train in the order of the source's ``labels``, or else in alphabetical order."""
        counts = _counts(train)
        if len(counts) < 2:
            raise UserError(
                f"{key}: all {len(train)} rows of train have the label '{train[0]['label']}', expected two classes or"
                " more: check `label` and `where`"
            )
        return [name for name in source.labels or counts if name in counts]

    def summary(self, rows: list[Row]) -> str:
        return ", ".join(f"{label} {count}" for label, count in _counts(rows).items())

    def predictions(self, logits: list[np.ndarray], data: Any, rows: list[Row]) -> list[str]:
        return [self.labels[index] for index in np.concatenate(logits).argmax(axis=-1)]

    def scorer(self, rows: list[Row], predictions: list[str]) -> Callable[[np.ndarray], dict[str, float]]:
        index_of = {name: index for index, name in enumerate(self.labels)}
        actual = np.array([index_of[row["label"]] for row in rows])
        predicted = np.array([index_of[name] for name in predictions])

        def counts(labels: np.ndarray) -> np.ndarray:
            return np.bincount(labels, minlength=len(self.labels)).astype(float)

        def score(chosen: np.ndarray) -> dict[str, float]:
            ours, theirs = actual[chosen], predicted[chosen]
            return _metrics(counts(ours[ours == theirs]), counts(ours), counts(theirs), self.labels)

        return score

    def calibration(
        self, rows: list[Row], predictions: list[str], logits: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        from scipy.special import softmax

        correct = [row["label"] == predicted for row, predicted in zip(rows, predictions, strict=True)]
        return softmax(np.concatenate(logits), axis=-1).max(axis=-1), np.array(correct)

    def trivial_predictions(self, train: list[Row], rows: list[Row]) -> list[str]:
        """Always the majority class of train."""
        majority = Counter(row["label"] for row in train).most_common(1)[0][0]
        return [majority] * len(rows)

    def submission_values(self, predictions: list[str], source: Source, train: list[Row]) -> list[str]:
        """The labels' values in the source."""
        values = source.labels or {}
        return [str(values.get(label, label)) for label in predictions]

    def confusion(self, rows: list[Row], predictions: list[str]) -> Iterator[tuple[str, str]]:
        return zip((row["label"] for row in rows), predictions, strict=True)


def _counts(rows: list[Row]) -> dict[str, int]:
    return dict(sorted(Counter(row["label"] for row in rows).items()))


def _metrics(correct: np.ndarray, actual: np.ndarray, predicted: np.ndarray, labels: list[str]) -> dict[str, Any]:
    """Accuracy, F1 (by class, and the mean over the classes that occur) and Matthews correlation (0 where it is
    undefined because all labels or all predictions are the same).

    ``correct``, ``actual``, ``predicted``: the number of rows of each class, (C,) each. The results equal
    scikit-learn's, which is a hundred times slower on the many resamples of a confidence interval.
    """
    total = actual.sum()
    occurs = actual + predicted > 0
    f1 = 2 * correct / np.where(occurs, actual + predicted, 1)
    spread = (total**2 - actual @ actual) * (total**2 - predicted @ predicted)
    covariance = correct.sum() * total - actual @ predicted
    return {
        "accuracy": float(correct.sum() / total),
        "macro_f1": float(f1[occurs].mean()),
        "mcc": float(covariance / np.sqrt(spread)) if spread else 0.0,
        "f1": dict(zip(labels, f1.tolist(), strict=True)),
    }
