"""A teacher of few texts starts from the contrast of their classes; others start from the encoder."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModel

from pipeline.tinybert.core import settings
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.embeddings import mean_embeddings
from pipeline.tinybert.training import contrast, starts
from pipeline.tinybert.training.teacher_start import TeacherStart

ENCODER = Path("data/raw/encoder/checkpoint")
FEW = [{"text": text, "label": label} for text, label in tiny.sentences(24, seed=0)]
PAIRS = [{"text": "the film", "pair": row["text"], "label": row["label"]} for row in FEW]


def test_pairs_of_one_class_and_of_two_count_alike_and_no_text_is_its_own_pair():
    cosines = torch.tensor([[1.0, 0.5, 0.2], [0.5, 1.0, 0.0], [0.2, 0.0, 1.0]])
    expected = (0.5**2 + (0.2**2 + 0.0**2) / 2) / 2
    assert contrast.contrast(cosines, torch.tensor([0, 0, 1])).item() == pytest.approx(expected)
    assert contrast.contrast(cosines, torch.tensor([0, 1, 2])).item() == pytest.approx((0.25 + 0.04) / 3 / 2)
    assert contrast.contrast(torch.eye(2), torch.tensor([1, 1])).item() == pytest.approx(0.5)


def recipe(**changes) -> settings.FinetuneTeacher:
    wanted = {"min_steps": 30, "contrast_steps": 20, "similarity_steps": 0, **changes}
    return settings.load().of("finetune_teacher", "tiny").model_copy(update=wanted)


def started(rows, task=None, **changes) -> tuple[Path, settings.FinetuneTeacher, np.ndarray]:
    """The folder in which a teacher of these rows starts, its settings, and how it reads the rows: (rows, D)."""
    task, tokenizer = task or tiny.task(["negative", "positive"]), checkpoints.tokenizer(ENCODER)
    with starts.start(TeacherStart(ENCODER, tokenizer, task, rows, recipe(**changes), tiny.numerics())) as (
        folder,
        found,
    ):
        model = AutoModel.from_pretrained(folder)
        return folder, found, mean_embeddings(model, tokenizer, [row["text"] for row in rows])


def within_minus_between(embeddings: np.ndarray) -> float:
    """How much nearer texts of FEW are to those of their class than to others."""
    alike = np.array([[one["label"] == other["label"] for other in FEW] for one in FEW])
    cosines = embeddings @ embeddings.T
    return cosines[alike & ~np.eye(len(FEW), dtype=bool)].mean() - cosines[~alike].mean()


def test_few_texts_of_one_class_come_closer_to_one_another_than_to_others(raw_world):
    (at, _, before), (elsewhere, found, after) = started(FEW, contrast_steps=0), started(FEW)
    assert at == ENCODER != elsewhere and found == recipe()
    assert within_minus_between(after) > within_minus_between(before) + 0.2


REGRESSION = tiny.task(["score"], "pearson", kind="regression")
NUMBERS = [{**row, "label": float(number)} for number, row in enumerate(FEW)]


@pytest.mark.parametrize(
    ("rows", "task", "changes"),
    [
        (FEW, None, {"contrast_steps": 0}),
        (FEW, None, {"min_steps": None}),
        (FEW, None, {"min_steps": 29}),  # 24 rows in batches of 8: less than ten epochs
        (FEW, None, {"epochs": 12}),  # min_steps adds nothing
        (PAIRS, None, {}),
        (NUMBERS, REGRESSION, {}),
    ],
    ids=["no steps", "no minimum", "too many rows", "enough epochs", "pairs", "numbers"],
)
def test_all_others_start_from_the_encoder(raw_world, rows, task, changes):
    folder, found, _ = started(rows, task, **changes)
    assert folder == ENCODER and found == recipe(**changes)


def test_a_long_text_is_cut_for_the_contrast_only(raw_world, monkeypatch, capfd):
    monkeypatch.setattr(contrast, "LONGEST", 6)
    lengths, encode = [], contrast.encode

    def watched(*arguments):
        encoded = encode(*arguments)
        lengths.extend(map(len, encoded["input_ids"]))
        return encoded

    monkeypatch.setattr(contrast, "encode", watched)
    task = tiny.task(["negative", "positive"])
    started(FEW, task, contrast_steps=1)
    assert set(lengths) == {6} and task.max_length == 32
    assert "max_length" not in capfd.readouterr().out


@pytest.fixture
def cosines_of_batches(monkeypatch) -> list[torch.Tensor]:
    found, contrast_of = [], contrast.contrast

    def watched(cosines, labels):
        found.append(cosines)
        return contrast_of(cosines, labels)

    monkeypatch.setattr(contrast, "contrast", watched)
    return found


@pytest.mark.parametrize(("largest", "batch_size"), [(23, 32), (32, 23)], ids=["own limit", "that of the settings"])
def test_no_text_is_left_over_alone(raw_world, monkeypatch, cosines_of_batches, largest, batch_size):
    monkeypatch.setattr(contrast, "BATCH_SIZE", largest)
    started(FEW, contrast_steps=4, batch_size=batch_size)  # 24 texts
    assert {len(cosines) for cosines in cosines_of_batches} == {12}


def test_cosines_are_in_float32(raw_world, cosines_of_batches):
    tokenizer, task = checkpoints.tokenizer(ENCODER), tiny.task(["negative", "positive"])
    recipe_of_one_step, numerics = recipe(contrast_steps=1), tiny.numerics(precision="bfloat16")
    with starts.start(TeacherStart(ENCODER, tokenizer, task, FEW, recipe_of_one_step, numerics)):
        assert [cosines.dtype for cosines in cosines_of_batches] == [torch.float32]
