"""The training loop on a model of a few weights: resuming, stopping, accumulation, the best epoch."""

import ast
import contextlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from accelerate import Accelerator
from damage import KINDS, damage
from safetensors.torch import load_file
from torch import nn
from transformers import BertForSequenceClassification

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.training import loop
from pipeline.tinybert.training.fine_tuning import LabelObjective
from pipeline.tinybert.training.loop import Objective, train_or_load
from pipeline.tinybert.training.plan import Plan, Result, Validation, steps_of

MANY = 10**6  # rows of validation: any difference of scores is more than chance
STEPS = {1: 9, 2: 6}  # accumulation → steps of three epochs of three batches


class Words(nn.Module):
    """One number for each word piece, and their mean for the text."""

    def __init__(self, dropout: float):
        super().__init__()
        self.embedding, self.dropout, self.linear = nn.Embedding(100, 4), nn.Dropout(dropout), nn.Linear(4, 1)

    def forward(self, input_ids, attention_mask):
        by_word = self.linear(self.dropout(self.embedding(input_ids))).squeeze(-1) * attention_mask
        return by_word, by_word.sum(dim=1) / attention_mask.sum(dim=1)


class TwoParts(Objective):
    """A mean over texts and a mean over word pieces."""

    parts = ("text", "word")

    def losses(self, model, batch):
        by_word, by_text = model(batch["input_ids"], batch["attention_mask"])
        text = (by_text - batch["labels"]).square().mean()
        return {"text": text, "word": (by_word - 1).square().mul(batch["attention_mask"]).sum() / self.words(batch)}, {}

    def counts(self, batch):
        return {"text": torch.tensor(len(batch["labels"])), "word": self.words(batch)}

    def words(self, batch):
        return batch["attention_mask"].sum()


def rows(count: int = 13) -> EncodedRows:
    draw = np.random.default_rng(1)
    ids = [draw.integers(5, 99, length).tolist() for length in draw.integers(2, 20, count)]
    return EncodedRows.in_memory({"input_ids": ids, "labels": [float(len(row)) for row in ids]})


def words_model(dropout: float = 0.0) -> Words:
    torch.manual_seed(0)
    return Words(dropout)


def plan(**changes) -> Plan:
    values = {"stage": "finetune_teacher", "seed": 1, "precision": "float32", "batch_size": 2, "learning_rate": 0.01}
    return Plan(**{**values, "epochs": 3, "warmup": 0.1, "weight_decay": 0.01, **changes})


def train(model: nn.Module, objective: Objective | None = None, validation=None, data=None, **changes) -> Result:
    collate = Collator(tiny.tokenizer())
    return train_or_load(
        "training", objective or TwoParts(), model, data or rows(), collate, plan(**changes), validation
    )


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([weights.detach().flatten() for weights in model.parameters()])


@pytest.fixture(autouse=True)
def folder(in_empty_folder, monkeypatch) -> Path:
    """What a run leaves if it is interrupted."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)  # which takes longer than these runs
    (in_empty_folder / "kept").mkdir()
    monkeypatch.setattr(loop.resume, "folder", lambda name: contextlib.nullcontext(in_empty_folder / "kept"))
    return in_empty_folder / "kept"


def emptied(folder: Path) -> None:
    loop.shutil.rmtree(folder)
    folder.mkdir()


# Resuming ---------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands in for a killed process: almost no handler of the program catches a BaseException."""


class KilledAt:
    """Calls a function; the call of this number ends before or after it with `Killed`."""

    def __init__(self, plain, number: int, after: bool = False):
        self.plain, self.number, self.after, self.calls = plain, number, after, 0

    def __call__(self, *arguments, **more):
        self.calls += 1
        if self.calls == self.number and not self.after:
            raise Killed
        result = self.plain(*arguments, **more)
        if self.calls == self.number:
            raise Killed
        return result

    def __get__(self, instance, owner):
        return lambda *arguments, **more: self(instance, *arguments, **more)


def run(accumulation: int = 1, best: str = "first", **changes) -> tuple[torch.Tensor, Result]:
    """A run with dropout and validation: the score is the distance from the first weights, or minus that."""
    model = words_model(dropout=0.3)
    start = flat(model).clone()

    def score() -> float:
        return float((flat(model) - start).norm()) * (-1 if best == "first" else 1)

    result = train(model, None, Validation("f1", score, MANY), rows(5), accumulation=accumulation, **changes)
    return flat(model), result


def assert_same(resumed, whole) -> None:
    assert torch.equal(resumed[0], whole[0])
    assert json.dumps(loop.asdict(resumed[1])) == json.dumps(loop.asdict(whole[1]))


@pytest.fixture
def checkpoint_after_each_step(monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)


PLACES = {
    "before a step": (loop.Run, "one_step", False),
    "after a step": (loop.Run, "one_step", True),
    "before the end of an epoch": (loop.Run, "end_epoch", False),
    "after the end of an epoch": (loop.Run, "end_epoch", True),
    "in the middle of a checkpoint": (Accelerator, "save_state", True),
    "before old checkpoints are removed": (loop.shutil, "rmtree", False),
    "while the weights are saved": (loop, "save_model", True),
    "before the weights are saved": (loop, "save_model", False),
    "before a checkpoint or the result is sealed": (loop.whole, "write", False),
}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("place", PLACES)
def test_a_killed_run_resumes_to_the_same_bytes(folder, monkeypatch, checkpoint_after_each_step, accumulation, place):
    kind, name, after = PLACES[place]
    whole = run(accumulation)
    assert whole[1].epoch == 1
    assert [step for step, _ in whole[1].curves["loss"]] == list(range(1, STEPS[accumulation] + 1))
    assert len(whole[1].curves["validation_f1"]) == 3
    moments = 0
    for number in (1, 2, 4, STEPS[accumulation]):
        emptied(folder)
        with monkeypatch.context() as patch:
            patch.setattr(kind, name, KilledAt(getattr(kind, name), number, after))
            with contextlib.suppress(Killed):
                run(accumulation)
                continue  # there are fewer such moments
        moments += 1
        assert not (folder / "result.json").exists()
        assert_same(run(accumulation), whole)
        assert (folder / "result.json").exists()
    assert moments


@pytest.mark.parametrize("saved_after", [1, 3, 4])
@pytest.mark.parametrize("killed_before", [5, 9])
@pytest.mark.parametrize("best", ["first", "last"])
def test_a_run_resumes_from_an_older_checkpoint_whatever_came_after_it(
    folder, monkeypatch, saved_after, killed_before, best
):
    whole = run(best=best)
    assert whole[1].epoch == {"first": 1, "last": 3}[best]
    emptied(folder)

    def save_once(self):
        if self.progress.step == saved_after and not list(self.folder.glob("checkpoint-*")):
            self.save_checkpoint()

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop.Run, "save_checkpoint_if_due", save_once)
        patch.setattr(loop.Run, "one_step", KilledAt(loop.Run.one_step, killed_before))
        run(best=best)
    steps = KilledAt(loop.Run.one_step, 0)
    monkeypatch.setattr(loop.Run, "one_step", steps)
    assert_same(run(best=best), whole)
    assert steps.calls == STEPS[1] - saved_after


def test_of_several_checkpoints_the_one_with_most_steps_is_resumed(folder, monkeypatch, checkpoint_after_each_step):
    whole = run(epochs=4)
    emptied(folder)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop.shutil, "rmtree", KilledAt(loop.shutil.rmtree, 11))
        run(epochs=4)
    names = {path.name for path in folder.glob("checkpoint*")}
    assert names == {"checkpoint-9-2", "checkpoint-9-3", "checkpoint-10-3"}
    steps = KilledAt(loop.Run.one_step, 0)
    monkeypatch.setattr(loop.Run, "one_step", steps)
    assert_same(run(epochs=4), whole)
    assert steps.calls == 2


@pytest.mark.parametrize("killed_at", [5, None])
def test_a_run_whose_files_are_damaged_ends_with_the_same_bytes(folder, monkeypatch, capsys, killed_at):
    """Each file in each way: of a run that was killed, and of one whose training was done."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    whole = run()
    emptied(folder)
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        if killed_at:
            patch.setattr(loop.Run, "one_step", KilledAt(loop.Run.one_step, killed_at))
        run()
    left = Path(shutil.copytree(folder, "left"))
    read = ("checkpoint-4-1", "best-1.safetensors") if killed_at else ("result.json", "trained.safetensors")
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 60)
    for path in [path.relative_to(left) for path in left.rglob("*") if path.is_file()]:
        for kind in KINDS:
            emptied(folder)
            shutil.copytree(left, folder, dirs_exist_ok=True)
            is_used = damage(folder / path, kind) and path.parts[0] in read
            capsys.readouterr()
            assert_same(run(), whole)
            assert ("is damaged and not used" in capsys.readouterr().out) == bool(is_used), (path, kind)


@pytest.mark.parametrize("best", ["first", "last"])
@pytest.mark.parametrize(("killed_before", "resumes_after"), [(5, 3), (6, 4), (8, 6), (9, 7)])
def test_a_run_whose_newest_checkpoint_is_damaged_resumes_from_the_one_before(
    folder, monkeypatch, checkpoint_after_each_step, best, killed_before, resumes_after
):
    whole = run(best=best)
    emptied(folder)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop.Run, "one_step", KilledAt(loop.Run.one_step, killed_before))
        run(best=best)
    newest = max(folder.glob("checkpoint-*"), key=lambda path: path.name)
    assert newest.name.startswith(f"checkpoint-{killed_before - 1}-")
    damage(newest / "model.safetensors", "flipped")
    steps = KilledAt(loop.Run.one_step, 0)
    monkeypatch.setattr(loop.Run, "one_step", steps)
    assert_same(run(best=best), whole)
    assert steps.calls == STEPS[1] - resumes_after


def test_a_run_that_is_killed_again_and_again_comes_to_its_end(folder, monkeypatch, checkpoint_after_each_step):
    whole = run()
    emptied(folder)
    for _ in range(STEPS[1] // 3 - 1):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(loop.Run, "one_step", KilledAt(loop.Run.one_step, 4))
            run()
    assert_same(run(), whole)


def test_a_finished_run_is_loaded_and_not_trained_again(monkeypatch):
    whole = run()
    monkeypatch.setattr(loop.Run, "one_step", None)
    monkeypatch.setattr(loop.Run, "end_epoch", None)
    weights, result = run()
    assert torch.equal(weights, whole[0]) and result.score == whole[1].score and result.epoch == whole[1].epoch


def test_there_are_two_checkpoints_at_a_time_and_none_in_a_short_run(folder, monkeypatch):
    run()
    names = sorted(path.name.split("-")[0] for path in folder.iterdir())
    assert names == ["best", "result.json", "trained.safetensors"]
    emptied(folder)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    run()
    assert {path.name for path in folder.glob("checkpoint*")} == {"checkpoint-8-2", "checkpoint-9-3"}


def test_teacher_logits_are_written_before_a_checkpoint_that_leaves_their_batches_out(monkeypatch, folder):
    class Recording(TwoParts):
        waiting, written = 0, 0

        def losses(self, model, batch):
            return super().losses(model, batch)[0], {"ids": batch["input_ids"]}

        def after_batch(self, batch, found):
            assert found["ids"] is batch["input_ids"]
            self.waiting += 1

        def before_checkpoint(self):
            self.written, self.waiting = self.written + self.waiting, 0

    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    objective, saved = Recording(), []
    save = Accelerator.save_state
    monkeypatch.setattr(
        Accelerator, "save_state", lambda *arguments: saved.append(objective.written) or save(*arguments)
    )
    train(words_model(), objective, epochs=1)
    assert saved == [1, 2, 3, 4, 5, 6, 7]


# Losses that are not finite -----------------------------------------------------------------------------------------


class NotFiniteAt(TwoParts):
    """The loss has this value at one step; a value of "gradient" is a finite loss without a finite gradient."""

    def __init__(self, value: float | str, step: int):
        self.value, self.step, self.calls = value, step, 0

    def losses(self, model, batch):
        parts, found = super().losses(model, batch)
        self.calls += 1
        if self.calls == self.step:
            if self.value == "gradient":
                parts["word"] = parts["word"] + (0 * parts["word"]).sqrt()
            else:
                parts["word"] = parts["word"] * self.value
        return parts, found


def as_on_a_gpu(one_step):
    """There the program looks at losses once for several steps."""

    def step(self, batches):
        self.device = torch.device("cuda")
        one_step(self, batches)
        self.device = torch.device("cpu")

    return step


@pytest.mark.parametrize("step", [1, 7, 8, 21])
@pytest.mark.parametrize(
    ("value", "what"),
    [(math.nan, "the loss is nan"), (math.inf, "the loss is inf"), ("gradient", "the gradients' norm is nan")],
)
def test_training_stops_at_the_first_loss_or_gradient_that_is_not_finite(
    folder, checkpoint_after_each_step, value, what, step
):
    objective = NotFiniteAt(value, step)
    with pytest.raises(UserError) as raised:
        train(words_model(), objective, learning_rate=0.125)
    assert objective.calls == step
    assert str(raised.value).startswith(f"finetune_teacher: {what} at step {step} of 21 (learning rate 0.125): ")
    assert "\n" not in str(raised.value)
    checkpoints = list(folder.glob("checkpoint*"))
    assert len(checkpoints) == min(step - 1, 2)
    for path in checkpoints:
        assert path.name.startswith((f"checkpoint-{step - 1}-", f"checkpoint-{step - 2}-"))
        assert all(weights.isfinite().all() for weights in load_file(path / "model.safetensors").values())
    assert not list(folder.glob("*.safetensors")) and not (folder / "result.json").exists()


@pytest.mark.parametrize("steps_between_looks", [5, 50])
def test_losses_of_several_steps_that_are_looked_at_together_name_the_step(folder, monkeypatch, steps_between_looks):
    monkeypatch.setattr(loop, "STEPS_BETWEEN_LOOKS", steps_between_looks)
    monkeypatch.setattr(loop, "POINTS_OF_A_CURVE", 1)
    monkeypatch.setattr(loop.Run, "one_step", as_on_a_gpu(loop.Run.one_step))
    objective = NotFiniteAt(math.nan, 12)
    with pytest.raises(UserError, match="the loss is nan at step 12 of 21"):
        train(words_model(), objective)
    assert objective.calls == {5: 15, 50: 21}[steps_between_looks]
    emptied(folder)
    curve = train(words_model()).curves["loss"]
    monkeypatch.setattr(loop, "STEPS_BETWEEN_LOOKS", 1)
    emptied(folder)
    assert train(words_model()).curves["loss"] == curve


@pytest.mark.parametrize("step", [1, 20, 21])
def test_the_losses_of_the_last_steps_are_looked_at_before_the_run_ends(folder, monkeypatch, step):
    monkeypatch.setattr(loop, "POINTS_OF_A_CURVE", 0.5)  # one point of a curve would take more steps than there are
    monkeypatch.setattr(loop.Run, "one_step", as_on_a_gpu(loop.Run.one_step))
    with pytest.raises(UserError, match=f"at step {step} of 21"):
        train(words_model(), NotFiniteAt(math.nan, step))
    assert not list(folder.iterdir())


def test_a_checkpoint_looks_at_the_losses_before_it_is_saved(folder, monkeypatch, checkpoint_after_each_step):
    monkeypatch.setattr(loop.Run, "add_point", lambda self: None)
    monkeypatch.setattr(loop.Run, "one_step", as_on_a_gpu(loop.Run.one_step))
    with pytest.raises(UserError, match="at step 9 of 21"):
        train(words_model(), NotFiniteAt(math.nan, 9))
    assert {path.name for path in folder.glob("checkpoint*")} == {"checkpoint-7-1", "checkpoint-8-1"}


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_not_finite_stops_the_training(folder, score):
    scores = iter([0.5, score])
    with pytest.raises(UserError, match=rf"finetune_teacher: f1 on validation is {score} after epoch 2 .* 0.01\)"):
        train(words_model(), validation=Validation("f1", lambda: next(scores), MANY))
    assert not (folder / "result.json").exists()


# Epochs, steps and the best epoch -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "patience", "epochs", "best"),
    [
        ([0.1, 0.2, 0.3, 0.4], None, 4, 4),
        ([0.4, 0.3, 0.2, 0.1], None, 4, 1),
        ([0.4, 0.3, 0.2, 0.1], 1, 2, 1),
        ([0.4, 0.3, 0.2, 0.1], 2, 3, 1),
        ([0.1, 0.3, 0.3, 0.3], 2, 4, 4),
        ([0.1, 0.3, 0.2, 0.4], 2, 4, 4),
        ([-0.5, -0.2, -0.3, -0.4], 1, 3, 2),
    ],
)
def test_training_stops_without_a_better_score_and_keeps_the_best_epoch(scores, patience, epochs, best):
    model, weights = words_model(), []

    def score() -> float:
        weights.append(flat(model).clone())
        return scores[len(weights) - 1]

    result = train(model, validation=Validation("f1", score, MANY), epochs=4, patience=patience)
    assert len(weights) == epochs and (result.score, result.epoch) == (scores[best - 1], best)
    assert [torch.equal(flat(model), found) for found in weights].index(True) == best - 1
    assert result.curves["validation_f1"] == [(7 * (n + 1), score) for n, score in enumerate(scores[:epochs])]


@pytest.mark.parametrize(
    ("best", "last", "rows", "kept"), [(0.8, 0.75, 30, 3), (0.8, 0.75, 3000, 1), (0.9, 0.6, 30, 1)]
)
def test_an_earlier_epoch_is_kept_only_if_it_is_better_by_more_than_chance(best, last, rows, kept):
    scores = iter([best, 0.1, last])
    result = train(words_model(), validation=Validation("f1", lambda: next(scores), rows), epochs=3)
    assert (result.epoch, result.score) == (kept, {1: best, 3: last}[kept])


@pytest.mark.parametrize(
    ("rows", "min_steps", "batch_size", "epochs", "steps"),
    [
        (6000, 300, 32, 3, 564),
        (450, None, 32, 3, 45),
        (1000, 300, 10, 3, 300),
        (450, 300, 8, 6, 300),
        (180, 300, 8, 14, 300),
        (5, 300, 8, 300, 300),
    ],
)
def test_few_rows_get_smaller_batches_and_then_more_epochs(rows, min_steps, batch_size, epochs, steps):
    plan = Plan("stage", 1, "float32", batch_size=32, learning_rate=1e-4, epochs=3, min_steps=min_steps)
    assert plan.fitted(rows) == replace(plan, batch_size=batch_size, epochs=epochs, steps=steps)


def test_a_run_on_few_rows_ends_after_min_steps_in_the_middle_of_an_epoch():
    result = train(words_model(), epochs=1, min_steps=30)
    assert (result.steps, result.epoch) == (30, 5) and steps_of(len(rows()), 1, plan().batch_size) == 7


def test_without_validation_the_last_epoch_is_kept(folder):
    model = words_model()
    result = train(model)
    assert math.isnan(result.score) and result.epoch == 3 and list(result.curves) == ["loss", "text", "word"]
    assert [path.name for path in folder.glob("best*")] == []


def test_each_epoch_takes_every_row_once_in_another_order_that_depends_on_the_seed(folder):
    class Watching(TwoParts):
        def after_batch(self, batch, found):
            order.extend(batch["labels"].tolist())

    def epochs(seed: int) -> list[list[float]]:
        emptied(folder)
        order.clear()
        train(words_model(), Watching(), data=data, seed=seed)
        return [order[start : start + 13] for start in (0, 13, 26)]

    order: list[float] = []
    data = EncodedRows.in_memory({"input_ids": [[2, 9, 3]] * 13, "labels": [float(row) for row in range(13)]})
    first = epochs(seed=1)
    assert all(sorted(epoch) == list(range(13)) for epoch in first)
    assert first[0] != first[1] != first[2] != first[0]
    assert epochs(seed=1) == first and epochs(seed=2)[0] != first[0]


@pytest.mark.parametrize(("steps", "epochs"), [(3, 1), (7, 1), (9, 2), (15, 3)])
def test_steps_in_place_of_epochs_stop_in_the_middle_of_an_epoch(steps, epochs):
    scores = []
    result = train(
        words_model(), epochs=1, steps=steps, validation=Validation("f1", lambda: scores.append(1.0) or 1.0, MANY)
    )
    assert [step for step, _ in result.curves["loss"]] == list(range(1, steps + 1))
    assert len(scores) == epochs
    assert ("validation_f1" in result.curves) == (epochs > 1)


def test_steps_in_place_of_epochs_resume_in_the_middle_of_an_epoch(folder, monkeypatch, checkpoint_after_each_step):
    whole = run(epochs=1, steps=5)
    for number in range(2, 6):
        emptied(folder)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(loop.Run, "one_step", KilledAt(loop.Run.one_step, number))
            run(epochs=1, steps=5)
        assert_same(run(epochs=1, steps=5), whole)


@pytest.mark.parametrize(("schedule", "rates"), [("linear", [0, 1, 0.75, 0.5, 0.25]), ("constant", [1] * 5)])
def test_the_learning_rate_follows_its_schedule(optimiser_steps, schedule, rates):
    train(words_model(), schedule=schedule, steps=5, warmup=0.2 if schedule == "linear" else 0)
    assert optimiser_steps["rates"] == pytest.approx([0.01 * rate for rate in rates])


def test_weight_decay_is_for_matrices_only(optimiser_steps, monkeypatch):
    groups, made = [], torch.optim.AdamW.__init__
    monkeypatch.setattr(
        torch.optim.AdamW, "__init__", lambda self, given, **more: groups.extend(given) or made(self, given, **more)
    )
    model = words_model()
    model.embedding.weight.requires_grad_(False)
    train(model, steps=1)
    assert [(group["weight_decay"], [len(weights.shape) for weights in group["params"]]) for group in groups] == [
        (0.01, [2]),
        (0.0, [1]),
    ]


@pytest.mark.parametrize(
    ("rows", "epochs", "batch_size", "accumulation", "steps"),
    [(13, 3, 2, 1, 21), (13, 3, 2, 2, 12), (1, 1, 8, 4, 1), (16, 2, 4, 4, 2)],
)
def test_steps_are_counted_with_the_last_smaller_ones(rows, epochs, batch_size, accumulation, steps):
    assert steps_of(rows, epochs, batch_size, accumulation) == steps


def test_a_curve_has_a_point_for_each_hundredth_of_the_steps(monkeypatch):
    each = train(words_model()).curves
    monkeypatch.setattr(loop, "POINTS_OF_A_CURVE", 7)
    emptied(Path("kept"))
    curves = train(words_model()).curves
    for name, points in each.items():
        values = [value for _, value in points]
        expected = [(step, np.mean(values[step - 3 : step])) for step in range(3, 22, 3)]
        assert [step for step, _ in curves[name]] == [step for step, _ in expected]
        assert [value for _, value in curves[name]] == pytest.approx([value for _, value in expected])


# Accumulation and memory --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "accumulation"), [(2, 4), (1, 8), (3, 3)])
def test_accumulated_batches_train_like_one_large_batch(folder, batch_size, accumulation):
    """Each part of the loss is a mean over other things, and batches have different numbers of them."""

    def trained(**changes):
        emptied(folder)
        model = words_model()
        return train(model, epochs=2, **changes).curves, flat(model)

    curves, weights = trained(batch_size=batch_size, accumulation=accumulation)
    expected_curves, expected = trained(batch_size=batch_size * accumulation)
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
    for name, points in expected_curves.items():
        assert [step for step, _ in curves[name]] == [step for step, _ in points]
        assert [value for _, value in curves[name]] == pytest.approx([value for _, value in points], rel=1e-4)


def test_a_part_that_no_batch_of_a_step_has_items_for_is_0(folder):
    class OnlyText(TwoParts):
        def losses(self, model, batch):
            parts, found = super().losses(model, batch)
            return {**parts, "word": 0 * parts["word"]}, found

        def counts(self, batch):
            return {**super().counts(batch), "word": torch.tensor(0)}

    curves = train(words_model(), OnlyText(), accumulation=2, epochs=1).curves
    assert [value for _, value in curves["word"]] == [0] * 4
    assert all(value > 0 for _, value in curves["text"])


def test_checkpointing_trains_to_the_same_weights_and_leaves_the_model_without_it(folder, task):
    data = EncodedRows.in_memory({"input_ids": [[2, 9, 8, 3]] * 4 + [[2, 7, 3]] * 3, "labels": [0, 1] * 3 + [0]})

    def trained(checkpointing: bool):
        emptied(folder)
        torch.manual_seed(0)
        model = BertForSequenceClassification(tiny.config(layers=2, problem_type="single_label_classification"))
        before = model.config.to_dict()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.3
        inputs = []
        for layer in model.bert.encoder.layer:
            layer.attention.register_forward_pre_hook(lambda *_: inputs.append(1))
        train(model, LabelObjective(task), data=data, epochs=2, checkpointing=checkpointing)
        assert not model.is_activation_checkpointing and model.config.to_dict() == before
        return flat(model), len(inputs)

    (expected, once), (weights, twice) = trained(False), trained(True)
    assert torch.equal(weights, expected)
    assert twice == 2 * once == 2 * 2 * 8


# Libraries ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(Path(loop.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_training_touches_no_private_attribute_of_a_library(path):
    found = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__")
    ]
    without_public_name = "torch._foreach_"  # of torch: one kernel for many tensors
    assert [name for name in found if not name.startswith(without_public_name)] == []
