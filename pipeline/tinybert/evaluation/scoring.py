"""What `evaluate` reports: every metric of each model with an interval, its calibration and its scores by
length; retention and agreement.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np

from pipeline.tinybert.core.settings import Evaluate
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.tasks import Task

DIGITS = 4
BINS = 10

Bin = tuple[float, float, int]  # of a reliability curve: mean of what is said, mean of what is found, count


def report(
    task: Task,
    rows: list[Row],
    predictions: dict[str, list],
    trivial: list,
    settings: Evaluate,
    curves: dict[str, list[Bin]],
    thresholds: dict[str, float] | None = None,
) -> dict[str, dict | float | None]:
    """Scores of each model, and of the student beside the teacher.

    curves: the reliability curve of each model.
    thresholds: those that the predictions of each model went through, to stand beside its scores.
    retention: the main metric, student over teacher; None where the teacher is no better than the trivial predictor.
    agreement: the share of rows of which both say the same.
    """
    scores: dict = {}
    for name, said in predictions.items():
        low, high = interval(task, rows, said, settings)
        scores[name] = {**task.score(rows, said), "low": low, "high": high}
        if task.says_probabilities:
            scores[name]["calibration_error"] = calibration_error(curves[name])
        if thresholds:
            scores[name]["threshold"] = thresholds[name]
    teacher, student = (scores[name][task.metric] for name in ("teacher", "student"))
    beaten = teacher > task.score(rows, trivial)[task.metric]
    scores["retention"] = student / teacher if beaten else None
    triples = zip(rows, predictions["teacher"], predictions["student"], strict=True)
    scores["agreement"] = float(np.mean([task.agree(*triple) for triple in triples]))
    return _rounded(scores)


def scores_of(task: Task, rows: list[Row], predictions: dict[str, list]) -> dict[str, dict]:
    """Every metric of each model on further rows."""
    return _rounded({name: task.score(rows, said) for name, said in predictions.items()})


def interval(task: Task, rows: list[Row], predictions: list, settings: Evaluate) -> tuple[float, float]:
    """Bootstrap 95 % interval of the main metric: the 2.5th and 97.5th percentile over resampled rows."""
    draw = np.random.default_rng(settings.seed)
    score = task.scorer(rows, predictions)
    found = [score(draw.integers(len(rows), size=len(rows)))[task.metric] for _ in range(settings.resamples)]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def reliability(said: np.ndarray, found: np.ndarray) -> list[Bin]:
    """The reliability curve of what ``Task.calibration`` gives, (N,) each: up to ten bins by what is said, of equal
    counts but that equal numbers stay together.
    """
    _, rank, counts = np.unique(said, return_inverse=True, return_counts=True)
    smaller = np.cumsum(counts) - counts  # how many are below each of the different numbers
    bins = (smaller * BINS // len(said))[rank]
    members = (bins == number for number in np.unique(bins))
    return [(float(said[inside].mean()), float(found[inside].mean()), int(inside.sum())) for inside in members]


def calibration_error(curve: list[Bin]) -> float:
    """The expected calibration error: how far what is said is from what is found, in the mean over all in the bins."""
    said, found, counts = np.array(curve).T
    return float(np.average(np.abs(said - found), weights=counts))


def by_length(task: Task, rows: list[Row], predictions: dict[str, list]) -> Iterator[tuple[str, str, str, float, int]]:
    """(model, metric, class of lengths, score, count) for each class that occurs, the shortest first."""
    lengths = [task.length(row) for row in rows]
    members: dict[str, list[int]] = {}
    for number in np.argsort(lengths, kind="stable"):
        members.setdefault(_length_class(lengths[number]), []).append(number)
    for name, said in predictions.items():
        score = task.scorer(rows, said)
        scores = {length: score(np.array(numbers)) for length, numbers in members.items()}
        for metric, length in product(task.metrics_by_length, members):
            yield name, metric, length, round(scores[length][metric], DIGITS), len(members[length])


def _length_class(length: int) -> str:
    """none, 1, 2-3, 4-7, 8-15, …: classes that begin at powers of two."""
    if length < 2:
        return ("none", "1")[length]
    shortest = 1 << length.bit_length() - 1
    return f"{shortest}-{2 * shortest - 1}"


def summary(task: Task, scores: dict) -> str:
    parts = [f"{name} {scores[name][task.metric]:.4f}" for name in ("teacher", "student", "student_alone")]
    retention = "undefined" if scores["retention"] is None else f"{scores['retention']:.4f}"
    return f"{task.metric} on test: {', '.join(parts)}; retention {retention}, agreement {scores['agreement']:.4f}"


def _rounded(scores: dict) -> dict:
    return {
        name: _rounded(value) if isinstance(value, dict) else value if value is None else round(value, DIGITS)
        for name, value in scores.items()
    }
