import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
import tiny

from pipeline.tinybert.core import resume

STAGE, TASK = "finetune_teacher", "tiny"


def run(fails: bool = False) -> list[str]:
    """What a run of the stage finds in its folder, and leaves there."""
    with pytest.raises(KeyError) if fails else contextlib.nullcontext(), resume.stage_folder(STAGE, [TASK]):
        with resume.folder("training") as folder:
            found = [path.name for path in folder.iterdir()]
            (folder / "step").touch()
        if fails:
            raise KeyError
    return found


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def left() -> list[Path]:
    return list(Path(".dvc/tmp/scratch").rglob("step"))


def test_what_a_run_that_did_not_end_has_left_is_found_and_goes_at_the_end(repository, capsys):
    assert run(fails=True) == []
    assert run(fails=True) == ["step"]
    assert "resumes from" in capsys.readouterr().out
    assert run() == ["step"]
    assert left() == [] and not list(Path(".dvc/tmp/scratch").iterdir())
    assert run() == []


def test_outside_a_stage_the_folder_is_empty_and_goes(in_empty_folder):
    with resume.folder("training") as folder:
        (folder / "step").touch()
    assert not folder.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda: tiny.write_params(Path("params.yaml"), **{"finetune_teacher.epochs": 9}),
        lambda: tiny.write_params(Path("params.yaml"), **{"tasks.tiny.finetune_teacher": {"epochs": 9}}),
        lambda: Path("models/pretrained/encoder/config.json").write_text("{}"),
        lambda: append(Path("data/tiny/prepared/train.jsonl"), "\n"),
        lambda: (
            Path("pipeline/tinybert/training").mkdir(parents=True)
            or Path("pipeline/tinybert/training/loop.py").write_text("")
        ),
    ],
    ids=["setting", "setting of the task", "model", "rows", "code"],
)
def test_what_the_result_depends_on_starts_over(repository, capsys, change):
    run(fails=True)
    change()
    assert run(fails=True) == []
    assert "starts from the beginning: 1 interrupted runs had other settings" in capsys.readouterr().out
    assert len(left()) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda: tiny.write_params(Path("params.yaml"), **{"distill_prediction.epochs": 9}),
        lambda: append(Path("params.yaml"), "# a comment\n"),
    ],
    ids=["setting of another stage", "comment"],
)
def test_what_it_does_not_depend_on_goes_on(repository, change):
    run(fails=True)
    change()
    assert run(fails=True) == ["step"]


def test_a_copy_of_the_workspace_that_shares_the_cache_goes_on(repository, tmp_path, monkeypatch):
    """As experiments run that are queued, or --temp."""
    run(fails=True)
    copy = tmp_path / "copy"
    resume.shutil.copytree(repository, copy, ignore=resume.shutil.ignore_patterns("scratch"))
    (copy / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {repository / '.dvc' / 'cache'}\n")
    monkeypatch.chdir(copy)
    assert run() == ["step"]


def test_two_runs_at_the_same_work_keep_out_of_each_other_s_way(repository, capsys):
    run(fails=True)
    hold = (
        "import filelock, sys; it = filelock.FileLock(sys.argv[1]); it.acquire(); print(flush=True); sys.stdin.read()"
    )
    lock = next(Path(".dvc/tmp/scratch").rglob(".lock"))
    command = [sys.executable, "-c", hold, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert run() == []
        other.stdin.close()
    assert "another process runs the same stage" in capsys.readouterr().out
    assert run() == ["step"]


def test_only_runs_that_have_ended_and_are_old_are_deleted(repository):
    """A run that goes on for weeks may have written its folder's entries long ago."""
    runs = Path(".dvc/tmp/scratch", f"{STAGE}-{TASK}")
    for name in ("ended", "running", "resumed"):
        (runs / name / "training").mkdir(parents=True)
        (runs / name / "training" / "step").touch()
        (runs / name / resume.LOCK).touch()
    running = filelock.FileLock(runs / "running" / resume.LOCK)
    long_ago = time.time() - (resume.DELETED_AFTER + 1) * 24 * 3600
    with running:
        for path in runs.rglob("*"):
            os.utime(path, (long_ago, long_ago))
        (runs / "resumed" / "training" / "step").touch()
        run()
    assert sorted(path.name for path in runs.iterdir()) == ["resumed", "running"]


def test_a_folder_is_restored_only_if_the_stage_fails(repository):
    folder = Path("metrics/live")
    folder.mkdir()
    (folder / "loss.tsv").write_text("before")
    for fails in (True, False):
        with contextlib.suppress(KeyError), resume.stage_folder(STAGE, [TASK]):
            resume.restore_if_the_stage_fails(folder)
            (folder / "loss.tsv").write_text("after")
            (folder / "new.tsv").touch()
            if fails:
                raise KeyError
        text = (folder / "loss.tsv").read_text()
        assert (text, (folder / "new.tsv").exists()) == (("before", False) if fails else ("after", True))
