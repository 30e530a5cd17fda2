import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import FinetuneTeacher
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.models.inference import EvaluationSet
from pipeline.tinybert.training import fine_tuning

ROWS = [{"text": text, "label": label} for text, label in tiny.sentences(21, seed=3)]
TRAIN, VALIDATION = ROWS[:13], ROWS[13:]


@pytest.fixture
def encoder(in_empty_folder):
    tiny.write_checkpoint(in_empty_folder / "encoder", layers=2)
    return in_empty_folder / "encoder"


def recipe(**changes) -> FinetuneTeacher:
    values = {"epochs": 2, "batch_size": 4, "learning_rate": 2e-3, "warmup": 0.25, "weight_decay": 0.01}
    more = {"min_steps": None, "patience": None, "accumulation": 1, "checkpointing": False}
    own = {"checkpoint": None, "dropout": None, "class_weights": False, "calibrate": False}
    own |= {"encoder": None, "seeds": None, "predictions": None, "similarity_steps": 0, "contrast_steps": 0}
    return FinetuneTeacher.model_validate({**values, **more, **own, **changes})


def fine_tune(encoder, task, train=TRAIN, seed=1, precision="float32", class_weights=None, **changes):
    settings, numerics = recipe(**changes), tiny.numerics(seed, precision)
    validation = EvaluationSet(task, VALIDATION, tiny.tokenizer())
    trained = fine_tuning.fine_tune(
        lambda: task.load_model(encoder, seed), train, validation, settings, numerics, "finetune_teacher", class_weights
    )
    return trained.model, trained.result


def test_the_last_layer_computes_only_what_the_head_reads(encoder, task, monkeypatch):
    sizes, load = [], task.load_model

    def watched(folder, seed):
        model = load(folder, seed)
        for block in model.bert.encoder.layer:
            block.output.dense.register_forward_hook(lambda module, inputs, states: sizes.append(states.size(1)))
        return model

    monkeypatch.setattr(task, "load_model", watched)
    fine_tune(encoder, task)
    assert len(sizes) == 2 * (8 + 2)  # steps, validations
    assert sizes[1::2] == [1] * (8 + 2) and min(sizes[::2]) > 5


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_reported_score_is_that_of_the_model_that_is_kept(encoder, task, precision):
    model, result = fine_tune(encoder, task, epochs=3, precision=precision)
    assert fine_tuning.score(model, EvaluationSet(task, VALIDATION, tiny.tokenizer())) == result.score


@pytest.mark.parametrize(("scores", "best"), [([0.25, 0.75, 0.5], 2), ([0.5, 0.5, 0.2], 1), ([0.1, 0.2, 0.3], 3)])
def test_fine_tuning_keeps_the_best_epoch_on_validation(encoder, task, monkeypatch, scores, best):
    left, weights, loaded = iter(scores), [], []
    load = task.load_model
    monkeypatch.setattr(task, "load_model", lambda folder, seed: loaded.append(load(folder)) or loaded[0])

    def score(rows, predictions):
        weights.append(copy.deepcopy(loaded[0].bert.encoder.state_dict()))
        return {"accuracy": next(left)}

    monkeypatch.setattr(task, "score", score)
    model, result = fine_tune(encoder, task, epochs=3)
    assert (result.score, result.epoch) == (max(scores), best)
    for epoch, state in enumerate(weights, start=1):
        same = all(torch.equal(kept, state[name]) for name, kept in model.bert.encoder.state_dict().items())
        assert same == (epoch == best)


def test_the_best_learning_rate_on_validation_is_kept(encoder, task, monkeypatch):
    scores = iter([0.25, 0.75, 0.5])
    monkeypatch.setattr(task, "score", lambda rows, predictions: {"accuracy": next(scores)})
    settings, numerics = recipe(epochs=1, learning_rate=[1e-3, 2e-3, 4e-3]), tiny.numerics()
    validation = EvaluationSet(task, VALIDATION, tiny.tokenizer())
    trained = fine_tuning.fine_tune(lambda: task.load_model(encoder, 1), TRAIN, validation, settings, numerics, "stage")
    monkeypatch.undo()
    assert (trained.learning_rate, trained.result.score) == (2e-3, 0.75)
    assert trained.trials == {"0.001": 0.25, "0.002": 0.75, "0.004": 0.5}
    alone, _ = fine_tune(encoder, task, epochs=1, learning_rate=2e-3)
    assert all(torch.equal(kept, alone.state_dict()[name]) for name, kept in trained.model.state_dict().items())


def test_the_same_seed_gives_bit_identical_weights(encoder, task):
    def weights(seed):
        return torch.cat([parameter.flatten() for parameter in fine_tune(encoder, task, seed=seed)[0].parameters()])

    first = weights(1)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


def test_fine_tuning_learns_the_labels(encoder, task):
    train = [{"text": text, "label": label} for text, label in tiny.sentences(64, seed=5)]
    _, result = fine_tune(encoder, task, train, epochs=6, batch_size=8)
    assert result.score >= 0.75
    assert result.curves["loss"][-1][1] < result.curves["loss"][0][1] / 2


def test_every_row_is_used_the_last_smaller_batch_too(encoder, task, monkeypatch):
    sizes = []
    collate = Collator.__call__
    monkeypatch.setattr(
        Collator, "__call__", lambda self, batch: sizes.append(len(batch["number"])) or collate(self, batch)
    )
    _, result = fine_tune(encoder, task, epochs=1)
    assert sorted(sizes) == [1, 4, 4, 4, 8]  # the last: all of validation
    assert [step for step, _ in result.curves["loss"]] == [1, 2, 3, 4]


def test_adamw_clips_all_gradients_together_and_its_rate_rises_then_falls(encoder, task, optimiser_steps):
    model, _ = fine_tune(encoder, task)
    assert optimiser_steps["kinds"] == {torch.optim.AdamW}
    assert optimiser_steps["clipped"] == {(len(list(model.parameters())), 1.0)}
    # Eight steps, two of them warm-up; the rate of a step is that set before it.
    assert optimiser_steps["rates"] == pytest.approx(
        [2e-3 * share for share in (0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)]
    )


def test_training_stops_after_epochs_in_a_row_without_a_better_score(encoder, task, monkeypatch):
    scores = iter([0.25, 0.5, 0.4, 0.5, 0.9])
    monkeypatch.setattr(task, "score", lambda rows, predictions: {"accuracy": next(scores)})
    _, result = fine_tune(encoder, task, epochs=5, patience=2)
    assert (result.score, result.epoch) == (0.5, 2)
    assert [score for _, score in result.curves["validation_accuracy"]] == [0.25, 0.5, 0.4, 0.5]


@pytest.mark.parametrize("changes", [{"batch_size": 2, "accumulation": 2}, {"checkpointing": True}], ids=str)
def test_accumulation_and_checkpointing_run_each_layer_twice_and_have_the_loss_of_whole_batches(
    encoder, task, monkeypatch, changes
):
    rows = [{"text": "a good film", "label": "positive"}, {"text": "a bad film", "label": "negative"}] * 6
    forwards, load = [], task.load_model

    def watched(folder, seed):
        model = load(folder, seed)
        for block in model.bert.encoder.layer:  # in training: validation never runs a layer twice
            block.attention.register_forward_pre_hook(lambda module, _: forwards.append(module.training))
        return model

    monkeypatch.setattr(task, "load_model", watched)

    def trained(**settings) -> tuple[list[float], int]:
        forwards.clear()
        curve = fine_tune(encoder, task, rows, **settings)[1].curves["loss"]
        return [loss for _, loss in curve], sum(forwards)

    (expected, once), (losses, twice) = trained(), trained(**changes)
    assert len(losses) == 6 and losses == pytest.approx(expected, rel=1e-3)
    assert twice == 2 * once == 2 * 2 * 6


def test_class_weights_let_rare_labels_count_as_much_as_frequent_ones(encoder, task):
    rare = [{"text": "a bad film", "label": "negative"}] + [{"text": "a good film", "label": "positive"}] * 3
    assert task.class_weights(rare) == [2.0, pytest.approx(2 / 3)]
    model = task.load_model(encoder, 1)
    with torch.no_grad():
        logits = model.eval()(**tiny.tokenizer()([row["text"] for row in rare], return_tensors="pt")).logits
    each = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 1]), reduction="none")
    changes = {"epochs": 1, "learning_rate": 1e-3, "dropout": 0}
    _, result = fine_tune(encoder, task, rare, class_weights=task.class_weights(rare), **changes)
    assert result.curves["loss"][0][1] == pytest.approx((each[0] / 2 + each[1:].mean() / 2).item(), rel=1e-4)


def test_class_weights_are_refused_for_kinds_without_classes(encoder):
    with pytest.raises(UserError, match="^finetune_teacher.class_weights: this kind of task has no classes"):
        tiny.task(["score"], "pearson", kind="regression").class_weights([])


def test_a_run_leaves_no_checkpoints_behind(encoder, task):
    fine_tune(encoder, task)
    assert list((encoder.parent / "models").iterdir()) == []


LARGE_TENSOR = """
import re
import {module}
import torch
values = torch.ones(1 << 24)
maps = open("/proc/self/smaps").read()
for start, end, flags in re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .*?^VmFlags: (.*?)$", maps, re.M | re.S):
    if int(start, 16) <= values.data_ptr() < int(end, 16):
        print("hg" in flags.split())
"""


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a system without huge pages")
def test_training_allocates_large_tensors_in_huge_pages():
    def asks(module: str) -> str:
        command = [sys.executable, "-c", LARGE_TENSOR.format(module=module)]
        environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
        found = subprocess.run(command, cwd=tiny.ROOT, env=environment, check=True, capture_output=True, text=True)
        return found.stdout.strip()

    assert asks("pipeline.tinybert.models.precision") == "True"
    assert asks("torch") == "False"


def test_validation_is_in_float32_whatever_the_training_computes_in(encoder, task, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    seen, linear = set(), torch.nn.functional.linear

    def watched(values, *rest):
        product = linear(values, *rest)
        seen.add((torch.is_grad_enabled(), product.dtype))
        return product

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    fine_tune(encoder, task, epochs=1, precision="bfloat16")
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}
    seen.clear()
    fine_tune(encoder, task, epochs=1, precision="float32")
    assert {kind for _, kind in seen} == {torch.float32}
