import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny_distillation import TEXTS, make_classifier, no_logits, plain_logits

from pipeline.tinybert.core.settings import DistillPrediction
from pipeline.tinybert.data import rows
from pipeline.tinybert.distillation.losses import soft_cross_entropy
from pipeline.tinybert.distillation.prediction import LogitsCollator, PredictionObjective, learn_logits
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.inference import EvaluationSet

VALIDATION = [{"text": text, "label": label} for text, label in zip(TEXTS, ["positive", "negative"] * 5, strict=True)]


def targets() -> np.ndarray:
    """Sure of itself, positive for even rows: as VALIDATION has it."""
    logits = np.tile(np.array([[-2.0, 2.0], [2.0, -2.0]], dtype=np.float32), (5, 1))
    return logits * np.linspace(1, 2, 10, dtype=np.float32)[:, None]


def recipe(**changes) -> DistillPrediction:
    values = {
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "warmup": 0.1,
        "weight_decay": 0.01,
        "calibrate": False,
    }
    more = {"min_steps": None, "patience": None, "accumulation": 1, "checkpointing": False, "dropout": None}
    more |= {"temperature": 1.0, "targets": "logits", "augmented": True}
    return DistillPrediction.model_validate({**values, **more, **changes})


def learn(student, task, data, logits, seed=1, precision="float32", **changes):
    tokenizer, teacher_logits = tiny.tokenizer(), no_logits()
    teacher_logits.values[:] = logits
    validation, numerics = EvaluationSet(task, VALIDATION, tokenizer), tiny.numerics(seed, precision)
    trained = learn_logits(lambda: student, tokenizer, data, teacher_logits, validation, recipe(**changes), numerics)
    return trained.result


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_prediction_loss_compares_each_row_with_its_own_logits(task, data, temperature):
    student, logits = make_classifier(), targets()
    expected = soft_cross_entropy(
        torch.from_numpy(plain_logits(student)), torch.from_numpy(logits), torch.ones(10), temperature
    )
    result = learn(student, task, data, logits, epochs=1, batch_size=16, temperature=temperature)
    assert result.curves["loss"][0][1] == pytest.approx(expected.item(), rel=1e-4)


def test_the_student_learns_labels_instead_of_logits_if_they_are_the_targets(world):
    """Those of the rows, each the wrong one: so validation is almost always wrong."""
    shutil.rmtree("data/tiny/teacher_logits")
    path, other = Path("data/tiny/augmented/rows.jsonl"), {"positive": "negative", "negative": "positive"}
    rows.write(path, [{**row, "label": other[row["label"]]} for row in rows.read(path)])
    changes = {"targets": "labels", "epochs": 1, "batch_size": 4}  # one long epoch: of several the least wrong is kept
    tiny.write_params(world / "params.yaml", **{f"distill_prediction.{key}": changes[key] for key in changes})
    tiny.run_stage("distill_prediction")
    assert json.loads(Path("metrics/tiny/distill_prediction/validation.json").read_text())["accuracy"] <= 0.2


def test_prediction_training_learns_from_logits_alone(task, data):
    student = make_classifier()
    result = learn(student, task, data, targets(), epochs=4, learning_rate=1e-2)
    assert "labels" not in data.batch([0])
    assert result.score == 1.0
    np.testing.assert_array_equal(plain_logits(student).argmax(axis=1), [1, 0] * 5)


@pytest.mark.parametrize(("dropout", "different"), [(None, 2), (0.5, 2), (0.0, 1)])
def test_dropout_as_set_or_of_the_student_itself(task, data, dropout, different):
    """Without dropout the first batch, all rows, has the same loss under every seed."""
    student = make_classifier()
    checkpoints.set_dropout(student, 0.5)
    changes = {"epochs": 1, "batch_size": 16, "dropout": dropout}
    curves = [learn(copy.deepcopy(student), task, data, targets(), seed, **changes).curves["loss"] for seed in (1, 2)]
    assert len({round(curve[0][1], 4) for curve in curves}) == different


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_computes_in_the_precision_set_and_validation_in_float32(precision, task, data, products):
    student = make_classifier()
    learn(student, task, data, targets(), precision=precision)
    assert products == {getattr(torch, precision), torch.float32}  # the latter on validation
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}


def test_bfloat16_learns_what_float32_learns(task, data):
    curves = [
        learn(make_classifier(), task, data, targets(), precision=precision, epochs=4).curves["loss"]
        for precision in ("float32", "bfloat16")
    ]
    assert curves[0] != curves[1]
    np.testing.assert_allclose(curves[0], curves[1], rtol=0.05)


def test_a_batch_has_the_teacher_s_logits_of_its_own_sequences(data):
    logits = no_logits()
    logits.values[:] = targets()
    batch = LogitsCollator(tiny.tokenizer(), logits)(data.select(np.array([9, 4, 5])).batch([2, 0]))
    assert batch["teacher_logits"].tolist() == targets()[[5, 9]][:, None].tolist()
    assert "number" not in batch and batch["label_mask"].all()


@pytest.mark.parametrize(("kind", "count"), [("named_entities", 3), ("question_answering", 2)])
def test_a_batch_counts_the_distributions_that_its_loss_is_the_mean_of(kind, count):
    task = tiny.task(["O", "B-x"] if kind == "named_entities" else [], "f1", kind=kind)
    mask = torch.tensor([[True, False, True], [True, False, False]])
    assert PredictionObjective(task, 1.0).counts({"label_mask": mask}) == {"loss": torch.tensor(count)}
