"""Classification of one text into one of two or more classes."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from pipeline.tinybert import models
from pipeline.tinybert.rows import Row
from pipeline.tinybert.settings import Source
from pipeline.tinybert.stage import UserError


class TextClassification:
    kind = "text_classification"
    metrics = ("accuracy", "macro_f1", "mcc")

    def __init__(self, labels: list[str], metric: str, max_length: int):
        self.labels, self.metric, self.max_length = labels, metric, max_length

    @classmethod
    def read(cls, records: Iterable[tuple[str, dict]], source: Source, key: str) -> list[Row]:
        if source.label is None:
            raise UserError(f"{key}.label: missing: name the column that holds the label")
        names = {str(value): name for name, value in (source.labels or {}).items()}
        rows, bad = [], []
        for where, record in records:
            text, label = record[source.text], record[source.label]
            label = label.strip() if isinstance(label, str) else label
            if not isinstance(text, str) or not text.strip():
                bad.append(f"{where}: column '{source.text}': empty text")
            elif label is None or label != label or label == "":
                bad.append(f"{where}: column '{source.label}': no label")
            elif names and str(label) not in names:
                bad.append(f"{where}: label '{label}' is not in {key}.labels ({', '.join(names)})")
            else:
                rows.append({"text": text.strip(), "label": names.get(str(label), str(label)), "where": where})
        if bad:
            raise UserError("; ".join(bad[:10]) + (f"; and {len(bad) - 10} more" if len(bad) > 10 else ""))
        return rows

    def encode(self, rows: Iterable[Row], tokenizer) -> dict[str, list]:
        rows = list(rows)
        longest = min(self.max_length, tokenizer.model_max_length)
        encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=longest)
        models.say_how_many_are_cut(encoded, longest)
        columns = dict(encoded)
        if rows and all("label" in row for row in rows):
            number = {name: index for index, name in enumerate(self.labels)}
            columns["labels"] = [number[row["label"]] for row in rows]
        return columns

    def replaceable(self, row: Row) -> dict[str, list[tuple[int, int]]]:
        return {"text": [(0, len(row["text"]))]}

    def replaced(self, row: Row, field: str, text: str) -> Row:
        return {**row, field: text}

    def load_model(self, folder: str | Path, seed: int = 0) -> torch.nn.Module:
        names = dict(enumerate(self.labels))
        return models.load(
            AutoModelForSequenceClassification,
            folder,
            seed=seed,
            id2label=names,
            label2id={name: index for index, name in names.items()},
        )

    def class_logits(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return logits, torch.ones(len(logits), dtype=torch.bool, device=logits.device)

    def predictions(self, logits: np.ndarray) -> list[str]:
        return [self.labels[index] for index in logits.argmax(axis=-1)]

    def score(self, rows: list[Row], predictions: list[str]) -> dict[str, float]:
        number = {name: index for index, name in enumerate(self.labels)}
        actual, said = [number[row["label"]] for row in rows], [number[name] for name in predictions]
        counts = np.zeros((len(self.labels), len(self.labels)))
        np.add.at(counts, (actual, said), 1)
        return _metrics(counts)

    def trivial_predictions(self, train: list[Row], rows: list[Row]) -> list[str]:
        majority = Counter(row["label"] for row in train).most_common(1)[0][0]
        return [majority] * len(rows)


def _metrics(counts: np.ndarray) -> dict[str, float]:
    """Accuracy, F1 (the mean over the classes that occur) and Matthews correlation from counts (actual, predicted).

    As scikit-learn has them, which is a hundred times slower on the many resamples of an interval.
    """
    total, right = counts.sum(), np.diag(counts)
    actual, predicted = counts.sum(axis=1), counts.sum(axis=0)
    occurs = actual + predicted > 0
    spread = (total**2 - actual @ actual) * (total**2 - predicted @ predicted)
    covariance = right.sum() * total - actual @ predicted
    return {
        "accuracy": float(right.sum() / total),
        "macro_f1": float((2 * right[occurs] / (actual + predicted)[occurs]).mean()),
        "mcc": float(covariance / np.sqrt(spread)) if spread else 0.0,
    }
