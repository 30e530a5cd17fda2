"""A stage that is killed goes on where it was, and ends with the bytes of one that was not."""

import contextlib
import random
from pathlib import Path

import pytest
import tiny
from killed import STAGES
from tiny import COMMON

from pipeline.tinybert.augmentation.word_replacement import Augmenter
from pipeline.tinybert.core import resume, stage
from pipeline.tinybert.distillation.teacher_logits import Logits
from pipeline.tinybert.training import loop
from pipeline.tinybert.training.loop import QuietTrainer

WORK = ((QuietTrainer, "training_step"), (Logits, "known"), (Augmenter, "load_sentences"), (loop, "save_model"))
CHANGES = {
    "seed": 3,
    "encoder.masked_language_model.steps": 12,
    "general_student.distillation.batch_size": 8,
    "general_student.start": "distillation",
    "general_student.distillation.dropout": 0.1,
    "distill_intermediate.epochs": 2,
    "distill_intermediate.max_rows": 100,
    "distill_intermediate.dropout": 0.1,
    "distill_prediction.dropout": 0.1,
}


class Killed(BaseException):
    """No handler of the program sees a process that is killed; this comes near it."""


@pytest.fixture
def run(repository, monkeypatch):
    """``run(stage, moment)``: all bytes that the stage leaves, and how many pieces of work it did; killed after so
    many, where a moment is given.
    """
    tiny.write_params(repository / "params.yaml", **CHANGES)
    monkeypatch.setattr(loop, "SECONDS_LOST", -1)
    count, last = 0, None

    def counting(plain):
        def counted(*arguments, **more):
            nonlocal count
            if count == last:
                raise Killed
            count += 1
            return plain(*arguments, **more)

        return counted

    for kind, name in WORK:
        monkeypatch.setattr(kind, name, counting(getattr(kind, name)))

    def start(stage: str, moment: int | None = None) -> tuple[dict[str, bytes], int]:
        nonlocal count, last
        count, last = 0, moment
        ends = contextlib.nullcontext() if moment is None else pytest.raises(Killed)
        with ends, resume.stage_folder(stage, [] if stage in COMMON else ["tiny"]):
            tiny.run_stage(stage)
        return {str(path): path.read_bytes() for path in repository.rglob("*") if path.is_file()}, count

    return start


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_goes_on_to_the_same_bytes(run, stage, monkeypatch):
    monkeypatch.setattr("pipeline.tinybert.augmentation.word_replacement.BLOCK_ROWS", 16)
    whole, work = run(stage)
    assert work > 6
    for moment in random.Random(stage).sample(range(2, work), 3):
        killed, done = run(stage, moment)
        assert done == moment
        assert of_outputs(killed, stage) == of_outputs(whole, stage)  # which an earlier run had left
        made, rest = run(stage)
        assert made == whole
        assert rest <= work - moment + 2  # a step that ends an epoch is not kept


def of_outputs(found: dict[str, bytes], stage: str) -> dict[str, bytes]:
    """But for what a run keeps for the next one, and for the curves that are shown while they grow."""
    return {name: content for name, content in found.items() if not {".dvc", stage} & set(Path(name).parts)}


def test_a_stage_killed_as_its_output_was_made_makes_it_again(run, monkeypatch):
    whole, _ = run("augment")

    def killed(message: str) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed), resume.stage_folder("augment", ["tiny"]):
        patch.setattr(stage, "say", killed)  # of how many rows there are, the last thing that it does
        tiny.run_stage("augment")
    assert run("augment")[0] == whole


@pytest.mark.parametrize("epochs", [2, 9])
def test_a_stage_killed_as_its_training_was_done_does_not_train_on(run, world, epochs):
    """After all epochs, or before, where the scores brought it to stop."""
    changes = {"finetune_student.epochs": epochs, "finetune_student.patience": 1}
    tiny.write_params(world / "params.yaml", **CHANGES, **{**changes, "finetune_student.learning_rates": [4.0e-3]})
    whole, work = run("finetune_student")
    assert (work < epochs * 14) == (epochs == 9)
    run("finetune_student", work - 1)  # the last piece of work is to keep the model
    made, rest = run("finetune_student")
    assert rest == 1
    assert made == whole
