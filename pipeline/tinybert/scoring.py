"""What `evaluate` reports: every metric of each model with an interval, retention and agreement."""

import numpy as np

from pipeline.tinybert.rows import Row
from pipeline.tinybert.settings import Evaluate
from pipeline.tinybert.tasks import Task

DIGITS = 4


def report(
    task: Task, rows: list[Row], predictions: dict[str, list], trivial: list, settings: Evaluate
) -> dict[str, dict | float | None]:
    """Scores of each model, and of the student beside the teacher.

    retention: the main metric, student over teacher; None where the teacher is no better than the trivial predictor.
    agreement: the share of rows of which both say the same.
    """
    scores: dict = {}
    for name, said in predictions.items():
        low, high = interval(task, rows, said, settings)
        scores[name] = {**task.score(rows, said), "low": low, "high": high}
    teacher, student = (scores[name][task.metric] for name in ("teacher", "student"))
    beaten = teacher > task.score(rows, trivial)[task.metric]
    scores["retention"] = student / teacher if beaten else None
    pairs = zip(predictions["teacher"], predictions["student"], strict=True)
    scores["agreement"] = float(np.mean([one == other for one, other in pairs]))
    return _rounded(scores)


def interval(task: Task, rows: list[Row], predictions: list, settings: Evaluate) -> tuple[float, float]:
    """Bootstrap 95 % interval of the main metric: the 2.5th and 97.5th percentile over resampled rows."""
    draw = np.random.default_rng(settings.seed)
    found = []
    for _ in range(settings.resamples):
        chosen = draw.integers(len(rows), size=len(rows))
        found.append(task.score([rows[i] for i in chosen], [predictions[i] for i in chosen])[task.metric])
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def confusion(rows: list[Row], predictions: list[str]) -> list[tuple[str, str]]:
    """(actual, predicted) of each row, sorted: DVC's confusion plot counts them."""
    return sorted((row["label"], said) for row, said in zip(rows, predictions, strict=True))


def summary(task: Task, scores: dict) -> str:
    parts = [f"{name} {scores[name][task.metric]:.4f}" for name in ("teacher", "student", "student_alone")]
    retention = "undefined" if scores["retention"] is None else f"{scores['retention']:.4f}"
    return f"{task.metric} on test: {', '.join(parts)}; retention {retention}, agreement {scores['agreement']:.4f}"


def _rounded(scores: dict) -> dict:
    return {
        name: _rounded(value) if isinstance(value, dict) else value if value is None else round(value, DIGITS)
        for name, value in scores.items()
    }
