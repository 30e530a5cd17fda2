"""Regression: a number for a text or a pair of texts."""

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.settings import Source
from pipeline.tinybert.data.cells import BadRecordError
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.tasks.texts import Texts

LARGEST = 1e12  # absolute value of a label: the square of a larger one, times a batch, may be infinite in float32
LARGE = 1000  # absolute value of a label


class Regression(Texts):
    has_submissions: ClassVar = True
    has_probabilities: ClassVar = False
    loss: ClassVar = "mean_squared_error"
    metrics: ClassVar = ("pearson_spearman", "pearson", "spearman")
    problem_type: ClassVar = "regression"

    def label(self, record: dict, source: Source) -> float:
        column = source.label or self.columns["label"]
        try:
            number = float(record[column])
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not abs(number) <= LARGEST:  # NaN is not
            raise BadRecordError(
                f"column '{column}': expected a number, found {record[column]!r}"
                + (f", which is above {LARGEST:g}" if math.isfinite(number) else ""),
                f"column '{column}': no number",
            )
        return number

    def target(self, row: Row) -> float:
        return row["label"]

    def label_names(self, train: list[Row], source: Source, key: str) -> list[str]:
        scores = {row["label"] for row in train}
        if len(scores) < 2:
            raise UserError(f"{key}: all rows of train have the score {scores.pop():g}: check `label`")
        if max(map(abs, scores)) > LARGE:
            log(
                f"DOUBTFUL: {key}: labels up to {max(map(abs, scores)):g}: a model begins with numbers near 0 and"
                " learns large ones slowly: divide them (into thousands, for example) so that they lie within about 10"
            )
        return ["score"]

    def summary(self, rows: list[Row]) -> str:
        scores = [row["label"] for row in rows]
        return f"from {min(scores):g} to {max(scores):g}, mean {np.mean(scores):.3g}" if rows else ""

    def logits_of_probabilities(self, numbers: np.ndarray) -> np.ndarray:
        """The numbers themselves."""
        return numbers

    def predictions(self, logits: list[np.ndarray], data: Any, rows: list[Row]) -> list[float]:
        return [float(value) for value in np.concatenate(logits)[:, 0]]

    def scorer(self, rows: list[Row], predictions: list[float]) -> Callable[[np.ndarray], dict[str, float]]:
        from scipy.stats import rankdata  # slow to import, and no other kind needs it

        actual, predicted = np.array([row["label"] for row in rows]), np.array(predictions)

        def score(chosen: np.ndarray) -> dict[str, float]:
            pearson = correlation(actual[chosen], predicted[chosen])
            spearman = correlation(rankdata(actual[chosen]), rankdata(predicted[chosen]))
            return {"pearson_spearman": (pearson + spearman) / 2, "pearson": pearson, "spearman": spearman}

        return score

    def doubt(self, rows: list[Row], predictions: list[float]) -> str:
        """Numbers on another scale than the labels: they correlate, but the labels' mean is closer to each label."""
        actual, predicted = np.array([row["label"] for row in rows]), np.array(predictions)
        if correlation(actual, predicted) <= 0 or np.mean((predicted - actual) ** 2) <= actual.var():
            return ""
        of_labels, of_model = (f"{np.mean(numbers):.3g} ± {np.std(numbers):.3g}" for numbers in (actual, predicted))
        return (
            f"its numbers ({of_model}) are on another scale than the labels ({of_labels}), and the student learns them"
        )

    def calibration(
        self, rows: list[Row], predictions: list[float], logits: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The predicted numbers and the labels."""
        return np.array(predictions), np.array([row["label"] for row in rows])

    def surest_mistakes(self, rows: list[Row], predictions: list[float], logits: list[np.ndarray]) -> np.ndarray:
        predicted, actual = self.calibration(rows, predictions, logits)
        return np.abs(predicted - actual)

    def without_text(self, prediction: float) -> float:
        return float(f"{prediction:.6g}")

    def trivial_predictions(self, train: list[Row], rows: list[Row]) -> list[float]:
        return [float(np.mean([row["label"] for row in train]))] * len(rows)

    def agreement(self, rows: list[Row], ones: list[float], others: list[float]) -> float:
        """The share of the rows for which both numbers round to the same multiple of ``step``."""
        size = step(rows)
        return float(np.mean(np.round(np.array(ones) / size) == np.round(np.array(others) / size)))

    def submission_values(self, predictions: list[float], source: Source, train: list[Row]) -> list[str]:
        """Numbers within the range of train's labels: servers refuse others."""
        labels = [row["label"] for row in train]
        return [f"{number:.3f}" for number in np.clip(predictions, min(labels), max(labels))]

    def confusion(self, rows: list[Row], predictions: list[float]) -> Iterator[tuple[str, str]]:
        """Labels and predictions, rounded to multiples of ``step``."""
        size = step(rows)
        for row, predicted in zip(rows, predictions, strict=True):
            actual, found = (f"{round(number / size) * size:.10g}" for number in (row["label"], predicted))
            yield actual, found


def step(rows: list[Row]) -> float:
    """The step to which numbers are rounded before they are compared: the largest of 1, 2 or 5 times a power of ten
    that fits at least four times into the range of the rows' labels. It is 1 for stars from 1 to 5, 0.2 for labels from
    0 to 1, and 1 if all labels are equal.
    """
    labels = [row["label"] for row in rows]
    quarter = (max(labels) - min(labels)) / 4 * (1 + 1e-9)  # 0.8 - 0.0 must not count as a little less
    if not quarter:
        return 1.0
    power = math.floor(math.log10(quarter))
    return max(float(f"{digit}e{power}") for digit in (1, 2, 5) if float(f"{digit}e{power}") <= quarter)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation; 0 where it is undefined because a side is constant (as a trivial predictor's is)."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:  # the mean of equal numbers may differ from them by rounding
        return 0.0
    one, other = one - one.mean(), other - other.mean()
    spread = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / spread if spread else 0.0
