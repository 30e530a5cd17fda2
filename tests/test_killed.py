"""A killed stage resumes where it stopped, and its outputs equal those of an uninterrupted run, byte for byte."""

import contextlib
import itertools
import random
import shutil
from pathlib import Path

import pytest
import tiny
from damage import KINDS, damage
from killed import STAGES
from tiny import COMMON

from pipeline.tinybert.augmentation.word_replacement import Augmenter
from pipeline.tinybert.core import resume
from pipeline.tinybert.distillation import teacher_logits
from pipeline.tinybert.distillation.teacher_logits import TeacherLogits
from pipeline.tinybert.training import loop

WORK = (
    (loop.Run, "one_step"),
    (TeacherLogits, "known"),
    (Augmenter, "load_sentences"),
    (loop, "save_model"),  # of the best epoch, and after training
)
CHANGES = {
    "seed": 3,
    "encoder.masked_language_model.steps": 12,
    "general_student.distillation.batch_size": 8,
    "general_student.start": "distillation",
    "general_student.distillation.dropout": 0.1,
    "distill_intermediate.min_steps": 20,  # it ends in the middle of its second epoch
    "distill_intermediate.max_rows": 100,
    "distill_intermediate.dropout": 0.1,
    "distill_prediction.dropout": 0.1,
}


class Killed(BaseException):
    """Stands in for a killed process: almost no handler of the program catches a BaseException."""


@pytest.fixture
def run(repository, monkeypatch):
    """``run(stage, moment)``: delete a stage's outputs and run it, killed after ``moment`` pieces of work if that is
    given.

    Returns the content of all files, and how many pieces of work were done. A piece of work is a call of one of
    ``WORK``.
    """
    tiny.write_params(repository / "params.yaml", **CHANGES)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    monkeypatch.setattr(teacher_logits, "SECONDS_BETWEEN_COMMITS", -1)
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
        tiny.delete_outputs(stage)
        ends = contextlib.nullcontext() if moment is None else pytest.raises(Killed)
        with ends, resume.stage_folder(stage, [] if stage in COMMON else ["tiny"]):
            tiny.run_stage(stage)
        return {str(path): path.read_bytes() for path in repository.rglob("*") if path.is_file()}, count

    return start


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_resumes_to_the_same_bytes(run, stage, monkeypatch):
    monkeypatch.setattr("pipeline.tinybert.augmentation.word_replacement.BLOCK_ROWS", 16)
    whole, work = run(stage)
    assert work > 6
    for moment in random.Random(stage).sample(range(2, work), 3):
        killed, done = run(stage, moment)
        assert done == moment
        assert of_outputs(killed, stage).items() <= of_outputs(whole, stage).items()  # no half-written output
        resumed, rest = run(stage)
        assert resumed == whole
        assert rest <= work - moment + 2  # no checkpoint is written at the last step of an epoch


SCRATCH = Path(".dvc/tmp/scratch")
UNREAD = ("values.npy", "starts.npy")  # made anew from logits-0.bin


@pytest.mark.parametrize(
    ("stage", "share"),
    [(stage, 0.4 if stage == "distill_intermediate" else 0.5) for stage in STAGES if stage != "finetune_student"],
)
def test_a_stage_whose_scratch_files_are_damaged_ends_with_the_same_bytes(run, stage, share, monkeypatch, capsys):
    """Each file that is read, and one that is not; the tests of the modules that write it damage it in each way.
    `finetune_student` has the files of `finetune_teacher`.
    """
    monkeypatch.setattr("pipeline.tinybert.augmentation.word_replacement.BLOCK_ROWS", 16)
    whole, work = run(stage)
    run(stage, int(share * work))
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 60)  # the runs below are short
    left = Path(shutil.copytree(SCRATCH, "left"))
    files = [path.relative_to(left) for path in sorted(left.rglob("*")) if path.is_file() and path.name != resume.LOCK]
    assert len(files) >= 2
    checkpoints = sorted(left.rglob("checkpoint-*"), key=lambda path: [int(part) for part in path.name.split("-")[1:]])
    unread = {*UNREAD, *(path.name for path in checkpoints[:-1])}
    finished = {path.parent.name for path in left.rglob("result.json")}  # of these runs, only the result is read

    def is_read(name: Path) -> bool:
        of_finished = finished & {*name.parts} and name.name not in ("result.json", "trained.safetensors")
        return not unread & {*name.parts} and not of_finished

    files = [*filter(is_read, files), *itertools.islice(itertools.filterfalse(is_read, files), 1)]
    for name, kind in zip(files, itertools.cycle(KINDS)):
        shutil.copytree(left, SCRATCH, dirs_exist_ok=True)
        changed = damage(SCRATCH / name, kind)
        capsys.readouterr()
        resumed, _ = run(stage)
        said = capsys.readouterr().out
        assert {path: resumed[path] for path in whole} == whole, (name, kind)
        assert not changed or not is_read(name) or "is damaged and not used" in said, (name, kind, said)


def of_outputs(files: dict[str, bytes], stage: str) -> dict[str, bytes]:
    """The files without those saved for resuming, and without the live curves."""
    return {name: content for name, content in files.items() if not {".dvc", stage} & set(Path(name).parts)}


def test_a_stage_killed_after_writing_its_output_writes_it_again(run, monkeypatch):
    whole, _ = run("augment")

    def killed(message: str) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed), resume.stage_folder("augment", ["tiny"]):
        patch.setattr("pipeline.augment.log", killed)  # the stage's last statement logs the number of rows
        tiny.run_stage("augment")
    assert run("augment")[0] == whole


@pytest.mark.parametrize("epochs", [2, 9])
def test_a_stage_killed_after_training_only_saves_the_model(run, world, epochs):
    """Whether training ended after all epochs or by early stopping."""
    changes = {"finetune_student.epochs": epochs, "finetune_student.patience": 1}
    tiny.write_params(world / "params.yaml", **CHANGES, **{**changes, "finetune_student.learning_rate": [4.0e-3]})
    whole, work = run("finetune_student")
    assert (work < epochs * 14) == (epochs == 9)
    run("finetune_student", work - 1)  # the last piece of work saves the model
    resumed, rest = run("finetune_student")
    assert rest == 1
    assert resumed == whole
