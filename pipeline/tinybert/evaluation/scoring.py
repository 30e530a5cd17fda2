"""Scores for `evaluate`: metrics and gain with bootstrap intervals, calibration, scores by text length, retention,
agreement.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

import numpy as np

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Evaluate
from pipeline.tinybert.data.rows import Row, digest
from pipeline.tinybert.evaluation import verdicts
from pipeline.tinybert.tasks import Task

DIGITS = 4
BINS = 10
# Of the scores that `review.py` compares. They are no settings: with others, old scores could not be compared.
RESAMPLING = Evaluate(seed=1, resamples=1000)

Bin = tuple[float, float, int]  # of a reliability curve: mean confidence, accuracy, count; see `reliability`


def report(
    task: Task,
    rows: list[Row],
    predictions: dict[str, list],
    trivial: list,
    settings: Evaluate,
    curves: dict[str, list[Bin]],
    thresholds: dict[str, float | None] | None = None,
) -> dict[str, dict | float | None]:
    """Scores of each model, and comparisons between them.

    predictions: model → a prediction for each row, after the threshold if the task needs one. Without "teacher",
    retention and agreement are None, and ``teacher_gain`` is left out.
    trivial: the predictions of the trivial predictor.
    curves: model → its reliability curve.
    thresholds: model → its threshold, copied to its scores.

    In the result, ``retention`` is the student's main metric divided by the teacher's, None if the teacher is not
    better than the trivial predictor; ``agreement`` is ``Task.agreement`` of student and teacher; ``gain`` and
    ``teacher_gain`` are the main metric of student and teacher minus that of the student alone.
    """
    scores: dict = {}
    resampled = resampled_scores(task, rows, predictions, settings)
    for name, predicted in predictions.items():
        scores[name] = {**task.score(rows, predicted), **interval(resampled[name])}
        if task.has_probabilities:
            scores[name] |= calibration(curves[name])
        if thresholds:
            scores[name]["threshold"] = thresholds[name]
    student, alone = (scores[name][task.metric] for name in ("student", "student_alone"))
    scores |= dict.fromkeys(("retention", "agreement"))
    scores["gain"] = {"value": student - alone, **interval(resampled["student"] - resampled["student_alone"])}
    if "teacher" in scores:
        teacher = scores["teacher"][task.metric]
        above_trivial = teacher > task.score(rows, trivial)[task.metric]
        scores["retention"] = student / teacher if above_trivial else None
        scores["agreement"] = task.agreement(rows, predictions["teacher"], predictions["student"])
        difference = resampled["teacher"] - resampled["student_alone"]
        scores["teacher_gain"] = {"value": teacher - alone, **interval(difference)}
    scores["test_rows"] = len(rows)
    return _rounded(scores)


def check_finite(logits: list[np.ndarray], model: str | Path) -> None:
    """Raise UserError if a logit is NaN or infinite: all scores would be those of a broken model."""
    if not all(np.isfinite(values).all() for values in logits):
        raise UserError(
            f"{model}: the model's outputs are not finite (NaN or infinite), so its weights are damaged: remove it"
            " and run `dvc repro`, or bring other weights if they are your own"
        )


def scores_of(task: Task, rows: list[Row], predictions: dict[str, list]) -> dict[str, dict]:
    """Model → every metric of its predictions for ``rows``, rounded."""
    return _rounded({name: task.score(rows, predicted) for name, predicted in predictions.items()})


def resampled_scores(
    task: Task, rows: list[Row], predictions: dict[str, list], settings: Evaluate
) -> dict[str, np.ndarray]:
    """Model → its main metric on each bootstrap resample of the rows, (resamples,).

    All models are scored on the same resamples, so that differences between them are paired.
    """
    draw = np.random.default_rng(settings.seed)
    scorers = [task.scorer(rows, predicted) for predicted in predictions.values()]
    resamples = (draw.integers(len(rows), size=len(rows)) for _ in range(settings.resamples))
    scores = np.array([[score(chosen)[task.metric] for score in scorers] for chosen in resamples])
    return dict(zip(predictions, scores.T, strict=True))


def comparable(task: Task, parts: Mapping[str, tuple[list[Row], list]]) -> Iterator[Row]:
    """Yield for each test set the model's main metric on resamples that depend on the number of rows alone.

    Two runs with the same ``digest`` have the same test rows, so their scores are paired resample by resample.
    ``parts``: test set → its rows and the model's predictions.
    """
    for part, (rows, predictions) in parts.items():
        scores = resampled_scores(task, rows, {"model": predictions}, RESAMPLING)["model"]
        yield {
            "part": part,
            "metric": task.metric,
            "rows": len(rows),
            "digest": digest(rows),
            "score": round(task.score(rows, predictions)[task.metric], DIGITS),
            "resampled": [round(float(score), DIGITS) for score in scores],
        }


def without_texts(
    task: Task, rows: list[Row], predictions: dict[str, list], mistakes: np.ndarray
) -> Iterator[dict[str, object]]:
    """Yield for each row a hash of it, each model's prediction and the confidence of the student's surest mistake."""
    for number, row in enumerate(rows):
        of_models = {which: task.without_text(predicted[number]) for which, predicted in predictions.items()}
        yield {"id": digest([row]), **of_models, "mistake": round(float(mistakes[number]), DIGITS)}


def interval(resampled: np.ndarray) -> dict[str, float]:
    """The 95 % interval of values on bootstrap resamples: their 2.5th and 97.5th percentiles."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def reliability(confidence: np.ndarray, correct: np.ndarray) -> list[Bin]:
    """The reliability curve of the two arrays (N,) that ``Task.calibration`` returns.

    It has up to ten bins, sorted by confidence and of equal counts, except that equal confidences share a bin. For
    regression, ``confidence`` holds the predicted numbers and ``correct`` the labels.
    """
    _, rank, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    smaller = np.cumsum(counts) - counts  # for each distinct confidence, how many are smaller
    bins = (smaller * BINS // len(confidence))[rank]
    members = (bins == number for number in np.unique(bins))
    return [(float(confidence[member].mean()), float(correct[member].mean()), int(member.sum())) for member in members]


def calibration(curve: list[Bin]) -> dict[str, float]:
    """Numbers from the bins of ``reliability``, which have equal counts.

    ``calibration_error``: the mean of |confidence - accuracy|, weighted by the counts. What is usually reported as
    expected calibration error has bins of equal width. ``confidence``: the mean over all predictions.
    ``overconfidence``: how much it is above their accuracy.
    """
    confidence, accuracy, counts = np.array(curve).T
    error, mean, over = (
        float(np.average(values, weights=counts))
        for values in (np.abs(confidence - accuracy), confidence, confidence - accuracy)
    )
    return {"calibration_error": error, "confidence": mean, "overconfidence": over}


def by_length(task: Task, rows: list[Row], predictions: dict[str, list]) -> Iterator[tuple[str, str, str, float, int]]:
    """Yield (model, metric, class of lengths, score, number of rows), the shortest class first."""
    lengths = [task.length(row) for row in rows]
    members: dict[str, list[int]] = {}
    for number in np.argsort(lengths, kind="stable"):
        members.setdefault(_length_class(lengths[number]), []).append(number)
    for name, predicted in predictions.items():
        score = task.scorer(rows, predicted)
        scores = {length: score(np.array(numbers)) for length, numbers in members.items()}
        for metric, length in product(task.metrics_by_length, members):
            yield name, metric, length, round(scores[length][metric], DIGITS), len(members[length])


def _length_class(length: int) -> str:
    """The length's class: none, 1, 2-3, 4-7, 8-15, … (each begins at a power of two)."""
    if length < 2:
        return ("none", "1")[length]
    shortest = 1 << length.bit_length() - 1
    return f"{shortest}-{2 * shortest - 1}"


def summary(task: Task, scores: dict) -> str:
    """One line for the log."""
    names = [name for name in ("teacher", "student", "student_alone") if name in scores]
    parts = [f"{name} {scores[name][task.metric]:.4f}" for name in names]
    agreement = [f"agreement {scores['agreement']:.4f}"] if "teacher" in scores else []
    compared = "; ".join([verdicts.gain(scores), verdicts.retention(scores), *agreement])
    return f"{task.metric} on test: {', '.join(parts)}; {compared}"


def _rounded(scores: dict) -> dict:
    return {
        name: _rounded(value) if isinstance(value, dict) else value if value is None else round(value, DIGITS)
        for name, value in scores.items()
    }
