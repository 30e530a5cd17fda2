from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from scipy.special import softmax

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings
from pipeline.tinybert.data import rows
from pipeline.tinybert.models.families import FAMILIES, TEACHER_FAMILIES
from pipeline.tinybert.models.inference import EvaluationSet, pytorch_forward
from pipeline.tinybert.tasks import KINDS
from pipeline.tinybert.training import calibration
from pipeline.tinybert.training.fine_tuning import Trained, calibrated
from pipeline.tinybert.training.plan import Result

LABELS = ["negative", "positive"]


def rows_and_logits(count: int, confidence: float, accuracy: float) -> tuple[list[dict], list[np.ndarray]]:
    """Rows, and logits that give each prediction the same probability, of which a share is right."""
    made = [{"text": "good film", "label": LABELS[number >= accuracy * count]} for number in range(count)]
    return made, [np.array([[np.log(confidence / (1 - confidence)), 0.0]])] * count


def probability(logits: np.ndarray) -> float:
    return softmax(logits[0]).max()


@pytest.mark.parametrize(("confidence", "accuracy"), [(0.99, 0.8), (0.7, 0.95)])
def test_after_calibration_predictions_are_as_probable_as_they_are_right(confidence, accuracy):
    made, logits = rows_and_logits(2000, confidence, accuracy)
    validation = EvaluationSet(tiny.task(LABELS), made, tiny.tokenizer())
    found = calibration.temperature(validation, logits)
    assert probability(logits[0] / found) == pytest.approx(accuracy, abs=0.01)


def test_few_rows_change_the_temperature_less_than_many():
    few, many = (
        calibration.temperature(EvaluationSet(tiny.task(LABELS), made, tiny.tokenizer()), logits)
        for made, logits in (rows_and_logits(count, 0.99, 0.8) for count in (5, 500))
    )
    assert 1 < few < 0.8 * many


def test_predictions_that_are_all_right_get_no_extreme_temperature():
    made, logits = rows_and_logits(20, 0.9, 1.0)
    assert calibration.temperature(EvaluationSet(tiny.task(LABELS), made, tiny.tokenizer()), logits) > 0.3


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_calibration_divides_the_logits_and_changes_no_prediction(raw_world, kind):
    tiny.write_task(raw_world, kind)
    tiny.run_stage("prepare", kind)
    prepared = Path("data", kind, "prepared")
    task = tasks.load(settings.load(), kind)
    validation = EvaluationSet(task, list(rows.read(prepared / "validation.jsonl")), tiny.tokenizer())
    model = task.load_model("data/raw/encoder/checkpoint", 1)
    with torch.no_grad():  # an untrained head's answers are about equally probable
        [*_, last] = (module for module in model.modules() if isinstance(module, torch.nn.Linear))
        last.weight *= 100
    with pytorch_forward(task, model) as forward:
        before = validation.logits(forward)
        predictions = validation.answers(before)
    trained = calibrated(Trained(model, Result(0, 0, 0, 0, {})), validation)
    with pytorch_forward(task, model) as forward:
        after = validation.logits(forward)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new, old / trained.temperature, rtol=1e-4, atol=1e-5)
    assert (trained.temperature == 1) == (kind == "regression")
    assert task.agreement(validation.rows, predictions, validation.answers(after)) == 1


@pytest.mark.parametrize("family", [*FAMILIES, *TEACHER_FAMILIES])
def test_every_family_has_its_last_projection_divided(in_empty_folder, family):
    tiny.write_family(in_empty_folder / family, family)
    task = tiny.task(LABELS)
    model = task.load_model(in_empty_folder / family, 1)
    inputs = {"input_ids": torch.tensor([[2, 6, 7, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with pytorch_forward(task, model) as forward:
        before = forward(inputs)
    calibration.divide_logits(model, 2.5)
    with pytorch_forward(task, model) as forward:
        torch.testing.assert_close(forward(inputs), before / 2.5)
