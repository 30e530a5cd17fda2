"""Checkpoints for resuming an interrupted stage.

A stage keeps them in a folder whose name is a hash of everything that its result depends on: what dvc.yaml lists, the
libraries, the processor. So the next run of the same stage on the same inputs finds them, and a run with another result
does not. The folder lies beside DVC's cache, where experiments that run in a copy of the workspace find it too. It is
deleted when the stage is done. (DVC's ``persist`` would keep outputs after a change of parameters: the run would resume
from the checkpoint of other parameters.)
"""

import contextlib
import contextvars
import hashlib
import importlib.metadata
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import filelock
import torch

from pipeline.tinybert.core import dvc_yaml, launch
from pipeline.tinybert.core.log import log

LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy", "nltk", "gensim", "icu4py")
DELETED_AFTER = 14  # days
LOCK = ".lock"

_stage: contextvars.ContextVar["_Stage | None"] = contextvars.ContextVar("stage", default=None)


class _Stage:
    """The running stage, and its folder of checkpoints."""

    def __init__(self, name: str, arguments: list[str]):
        self.name, self.arguments, self.is_opened = name, arguments, False
        self.on_failure = contextlib.ExitStack()
        self.lock: filelock.BaseFileLock | None = None
        self.path: Path | None = None

    def folder(self) -> Path | None:
        """The folder, created at the first call. None if another process runs the same stage on the same inputs."""
        if not self.is_opened:
            self.is_opened = True
            self.path = launch.first(self._create_and_lock)
        return self.path

    def _create_and_lock(self) -> Path | None:
        runs = _checkpoint_root() / "-".join([self.name, *self.arguments])
        path = runs / fingerprint(self.name, self.arguments)
        _delete_old_runs(runs)
        path.mkdir(parents=True, exist_ok=True)
        self.lock = filelock.FileLock(path / LOCK)
        try:
            self.lock.acquire(timeout=0)
        except filelock.Timeout:
            log(f"{path}: another process runs the same stage; this one writes no checkpoints")
            return None
        # Checkpoints of an earlier run with the same fingerprint
        if any(entry.name != LOCK for entry in path.iterdir()):
            log(f"resumes from {path}, left by an interrupted run")
        elif others := sum(entry != path for entry in runs.iterdir()):
            log(f"starts from the beginning: {others} interrupted runs had other settings, inputs, code or libraries")
        return path

    def close(self, done: bool) -> None:
        if done:
            launch.wait()
        if self.path is not None and self.lock is not None:
            self.lock.release()
            if done:
                shutil.rmtree(self.path)
                with contextlib.suppress(OSError):  # not empty: it holds other runs' checkpoints
                    self.path.parent.rmdir()


@contextlib.contextmanager
def stage_folder(name: str, arguments: list[str]) -> Iterator[None]:
    """Inside the block, `folder` yields the stage's folders. They are deleted at its end, unless it raises."""
    stage = _Stage(name, arguments)
    token = _stage.set(stage)
    done = False
    try:
        yield
        done = True
    finally:
        _stage.reset(token)
        if not done:
            stage.on_failure.close()
        stage.close(done)


def metrics_of_stage() -> Path | None:
    """Where the running stage's metrics will be; None outside a stage."""
    stage = _stage.get()
    return None if stage is None else Path("metrics", *(stage.arguments or ["pretrained"]), stage.name)


def restore_if_the_stage_fails(folder: Path) -> None:
    """If the running stage fails or is interrupted, ``folder`` will have the files that it has now, and no others."""
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def restore() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    if stage := _stage.get():
        stage.on_failure.callback(restore)


@contextlib.contextmanager
def folder(name: str) -> Iterator[Path]:
    """The running stage's folder of this name, empty or as an interrupted run has left it. All processes share it.

    Outside a stage: an empty folder on the disk of the models, deleted when the block ends.
    """
    # dvc.yaml tells what a stage's result depends on; without it there are no checkpoints.
    stage = _stage.get()
    run = stage.folder() if stage and Path("dvc.yaml").exists() else None
    if run:
        (run / name).mkdir(exist_ok=True)
        yield run / name
    else:
        Path("models").mkdir(exist_ok=True)
        with contextlib.ExitStack() as cleanup:
            temporary = None
            if launch.rank() == 0:
                temporary = cleanup.enter_context(
                    tempfile.TemporaryDirectory(dir="models", prefix=".scratch-", ignore_cleanup_errors=True)
                )
            yield Path(launch.broadcast_object(temporary))
            launch.wait()


def fingerprint(stage: str, arguments: list[str]) -> str:
    """A hash of a stage's command, parameters, code and inputs, of the libraries, and of how the processor computes."""
    found = {
        "stage": [stage, *arguments],
        **dvc_yaml.state(stage, arguments),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "processor": [torch.get_num_threads(), torch.backends.cpu.get_cpu_capability(), torch.cuda.is_available()],
        "processes": launch.world_size(),
    }
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:20]


def _checkpoint_root() -> Path:
    """A folder in the `.dvc/tmp` of the repository whose cache this workspace uses; if the cache is outside any
    repository, in this workspace's `.dvc/tmp`.
    """
    settings = ConfigParser()
    settings.read([".dvc/config", ".dvc/config.local"], encoding="utf-8")
    repository = Path(".dvc", settings.get("cache", "dir", fallback="cache")).resolve().parent
    return (repository if repository.name == ".dvc" else Path(".dvc").resolve()) / "tmp" / "scratch"


def _delete_old_runs(runs: Path) -> None:
    for path in runs.glob("*"):
        # A folder that a running process has locked is skipped.
        with contextlib.suppress(filelock.Timeout), filelock.FileLock(path / LOCK).acquire(timeout=0):
            written = max(entry.stat().st_mtime for entry in (path, *path.rglob("*")))
            if time.time() - written > DELETED_AFTER * 24 * 3600:
                shutil.rmtree(path, ignore_errors=True)
