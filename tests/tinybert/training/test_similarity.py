from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

from pipeline.tinybert.core import settings
from pipeline.tinybert.data import neighbours
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.training import similarity, starts
from pipeline.tinybert.training.teacher_start import TeacherStart

TEXTS = [f"text {number}" for number in range(50)]


def embeddings_on_a_circle(count: int) -> np.ndarray:
    angles = np.linspace(0, np.pi, count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_pairs_are_near_and_far_and_no_text_is_paired_with_itself():
    embeddings = embeddings_on_a_circle(50)
    pairs = similarity.draw_pairs(TEXTS, embeddings, 2000, 1)
    labels = np.array([pair["label"] for pair in pairs])
    assert abs(labels.mean()) < 1e-6 and labels.std() == pytest.approx(1)
    assert all(pair["text"] != pair["pair"] for pair in pairs)
    at = {text: number for number, text in enumerate(TEXTS)}
    apart = np.array([abs(at[pair["text"]] - at[pair["pair"]]) for pair in pairs])
    assert (apart <= 2).mean() > 0.25 and (apart > 20).mean() > 0.1
    assert labels[apart <= 2].min() > labels[apart > 20].max()


def test_the_seed_decides_the_pairs():
    one, same, other = (similarity.draw_pairs(TEXTS, embeddings_on_a_circle(50), 20, seed) for seed in (1, 1, 2))
    assert one == same != other


def test_more_texts_than_the_memory_holds_are_drawn(monkeypatch):
    monkeypatch.setattr(neighbours, "MOST", 10)
    pairs = similarity.draw_pairs(TEXTS, embeddings_on_a_circle(50), 500, 1)
    assert len({pair["text"] for pair in pairs}) == 10


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0.0, 1.0, 2.0, 3.0], 1),
        ([3.0, 2.0, 1.0, 0.0], 1),
        (["no", "no", "yes", "yes"], 0.7),
        (["no", "yes", "yes", "no"], 0),
        (["no", "no", "no", "no"], 0),
        ([1.0, 1.0, 1.0, 1.0], 0),
    ],
)
def test_the_explained_share_is_that_of_numbers_and_of_classes(labels, expected):
    cosines = {"a": 0.0, "b": 0.1, "c": 0.2, "d": 0.3}
    embeddings = {text: np.array([cosine, 1.0]) for text, cosine in cosines.items()} | {"one": np.array([1.0, 0.0])}
    rows = [{"text": text, "pair": "one", "label": label} for text, label in zip(cosines, labels, strict=True)]
    assert similarity.explained_variance(rows, embeddings) == pytest.approx(expected, abs=1e-6)


def test_random_classes_of_few_pairs_seldom_pass_for_explained():
    draw = np.random.default_rng(1)
    passed = 0
    for _ in range(200):
        angles = draw.uniform(0, np.pi, 30)
        embeddings = {str(n): np.array([np.cos(angle), np.sin(angle)]) for n, angle in enumerate(angles)}
        rows = [{"text": text, "pair": "one", "label": f"class {draw.integers(3)}"} for text in embeddings]
        share = similarity.explained_variance(rows, embeddings | {"one": np.array([1.0, 0.0])})
        passed += share >= similarity.LEAST_EXPLAINED
    assert passed <= 20  # without the adjustment, 48


def test_equal_texts_explain_nothing():
    rows = [{"text": "a", "pair": "a", "label": label} for label in ("no", "yes")]
    assert similarity.explained_variance(rows, {"a": np.array([1.0, 0.0])}) == 0


ENCODER = Path("data/raw/encoder/checkpoint")
SINGLE = [{"text": text, "label": "good" if number % 2 else "bad"} for number, text in enumerate(tiny.WORDS[:9])]
TWO_TEXTS = [{"text": "good", "pair": text, "label": label} for text, label in (("good", "good"), ("bad", "bad"))]
PAIRS = [{**row, "text": "good film", "pair": row["text"]} for row in SINGLE]
SEVERAL_LABELS = [{**row, "label": [row["label"]]} for row in PAIRS]


@pytest.mark.parametrize(
    ("rows", "steps", "explained", "starts_there"),
    [
        (PAIRS, 3, 0.5, True),
        (PAIRS, 0, 0.5, False),
        (PAIRS, 3, 0.01, False),
        (TWO_TEXTS, 3, 0.5, False),
        (SEVERAL_LABELS, 3, 0.5, False),
    ],
    ids=["pairs", "no steps", "labels about something else", "two texts", "several labels"],
)
def test_a_teacher_starts_from_similarity_if_it_explains_the_labels_of_pairs(
    raw_world, monkeypatch, rows, steps, explained, starts_there
):
    monkeypatch.setattr(similarity, "explained_variance", lambda *_: explained)
    recipe = settings.load().of("finetune_teacher", "tiny").model_copy(update={"similarity_steps": steps})
    tokenizer = checkpoints.tokenizer(ENCODER)
    task = tiny.task(["bad", "good"])
    with starts.start(TeacherStart(ENCODER, tokenizer, task, rows, recipe, tiny.numerics())) as (folder, found):
        assert (folder != ENCODER) == starts_there
        assert found.learning_rates == [pytest.approx(0.3 * 4e-3 if starts_there else 4e-3)]
        theirs, ours = (load_file(where / "model.safetensors") for where in (ENCODER, folder))
        assert theirs.keys() == ours.keys()
        assert any(not torch.equal(theirs[name], ours[name]) for name in theirs) == starts_there
        tiny.task(["bad", "good", "other"]).load_model(folder, 1)
