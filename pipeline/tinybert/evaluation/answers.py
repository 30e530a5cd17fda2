"""The answers of a model, of several or of a file of predictions, as `evaluate` scores them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.tinybert.core import launch
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.evaluation import scoring
from pipeline.tinybert.models import checkpoints, ensembles
from pipeline.tinybert.models.known_logits import KnownLogits
from pipeline.tinybert.models.precision import to_inference
from pipeline.tinybert.tasks import Task


@dataclass(frozen=True)
class Answers:
    """predictions: test set → a prediction for each row. A set is missing if a file of predictions lacks some of its
    rows.
    threshold: that of "no answer", the best on validation; None if the task needs none.
    logits: of test. member_predictions: of several models, the predictions of each for test, with its own threshold.
    """

    predictions: dict[str, list]
    threshold: float | None
    logits: list[np.ndarray]
    member_predictions: list[list]


def predict_tests(task: Task, folder: Path, parts: dict[str, list[Row]], tests: Iterable[str]) -> Answers:
    """The answers of what is in ``folder``. ``parts``: the rows of ``tests``, and of validation. Raises UserError if an
    output is not finite.
    """
    if known := KnownLogits.load(task, folder):
        of_file = {part: found for part in tests if (found := known.of_all(parts[part])) is not None}
        predictions = {part: task.predictions(found, None, parts[part]) for part, found in of_file.items()}
        return Answers(predictions, None, of_file.get("test", []), [])
    models = [
        (to_inference(task.load_model(member), "float32", launch.device()), checkpoints.tokenizer(member))
        for member in ensembles.folders(folder)
    ]
    predictions, logits, member_predictions = {}, [], []
    threshold: float | None = None
    member_thresholds: list[float | None] = [None for _ in models]
    with ensembles.opened(task, models) as ensemble:
        if task.needs_threshold:
            validation = parts["validation"]
            read, members = ensemble.logits(validation, f"{folder.name} on validation")
            threshold = task.best_threshold(validation, read.predictions(_mean(members, folder)))
            if len(members) > 1:
                member_thresholds = [task.best_threshold(validation, read.predictions(member)) for member in members]
        for part in tests:
            read, members = ensemble.logits(parts[part], f"{folder.name} on {part}")
            found = _mean(members, folder)
            predictions[part] = task.apply_threshold(read.predictions(found), threshold)
            if part == "test":
                logits = found
                if len(members) > 1:
                    each = zip(members, member_thresholds, strict=True)
                    member_predictions = [
                        task.apply_threshold(read.predictions(member), limit) for member, limit in each
                    ]
    return Answers(predictions, threshold, logits, member_predictions)


def _mean(members: list[ensembles.Logits], folder: Path) -> ensembles.Logits:
    logits = ensembles.mean(members)
    scoring.check_finite(logits, folder)
    return logits
