"""What a stage would lose if it were killed, in a folder that the next run of the same stage on the same inputs finds.

The folder's name is a hash of all that the stage's result depends on, as dvc.yaml lists it, of the libraries and of the
processor: a run that would give other bytes finds another folder. It lies beside DVC's cache, where experiments that
run in a copy of the workspace find it too, and goes when the stage is done. (DVC's own ``persist`` would keep outputs
after a change of parameters, and let the run go on from what others made.)
"""

import contextlib
import contextvars
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import BinaryIO

import filelock
import numpy as np
import torch

from pipeline.tinybert.core import launch
from pipeline.tinybert.core.log import log

LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy", "nltk", "gensim")
FORGOTTEN_AFTER = 14  # days
LOCK = ".lock"

_stage: contextvars.ContextVar["_Stage | None"] = contextvars.ContextVar("stage", default=None)


class _Stage:
    """The stage that runs, and its folder once something has been kept."""

    def __init__(self, name: str, arguments: list[str]):
        self.name, self.arguments, self.asked = name, arguments, False
        self.lock: filelock.BaseFileLock | None = None
        self.path: Path | None = None

    def folder(self) -> Path | None:
        """Made, or found, at the first call; None where another run is at the same work."""
        if not self.asked:
            self.asked = True
            self.path = launch.broadcast_object(self._locked() if launch.rank() == 0 else None)
        return self.path

    def _locked(self) -> Path | None:
        kept = _beside_the_cache() / "-".join([self.name, *self.arguments])
        path = kept / fingerprint(self.name, self.arguments)
        _forget_old_ones(kept)
        path.mkdir(parents=True, exist_ok=True)
        self.lock = filelock.FileLock(path / LOCK)
        try:
            self.lock.acquire(timeout=0)
        except filelock.Timeout:
            log(f"{path}: another process is at the same work; this one keeps nothing for a run that goes on")
            return None
        if any(entry.name != LOCK for entry in path.iterdir()):
            log(f"goes on from {path}, which a run that did not end has left")
        elif others := sum(entry != path for entry in kept.iterdir()):
            log(f"starts over: {others} runs that did not end had other settings, inputs, code or libraries")
        return path

    def close(self, done: bool) -> None:
        if done:
            launch.wait()
        if self.path is not None and self.lock is not None:
            self.lock.release()
            if done:
                shutil.rmtree(self.path)
                with contextlib.suppress(OSError):  # others are in it
                    self.path.parent.rmdir()


@contextlib.contextmanager
def stage_folder(name: str, arguments: list[str]) -> Iterator[None]:
    """While it runs, `folder` gives what an earlier run has left; when the block ends well, that goes."""
    stage = _Stage(name, arguments)
    token = _stage.set(stage)
    done = False
    try:
        yield
        done = True
    finally:
        _stage.reset(token)
        stage.close(done)


def metrics_of_stage() -> Path | None:
    """Where the running stage's metrics will be; None where no stage runs."""
    stage = _stage.get()
    return None if stage is None else Path("metrics", *(stage.arguments or ["pretrained"]), stage.name)


@contextlib.contextmanager
def folder(name: str) -> Iterator[Path]:
    """The running stage's folder of this name, as a run that was killed has left it, or empty; one for all processes.

    Where no stage runs, an empty one that goes when the block ends; on the disk of the models, which has room.
    """
    # Without dvc.yaml nobody knows what a stage's result depends on.
    stage = _stage.get()
    kept = stage.folder() if stage and Path("dvc.yaml").exists() else None
    if kept:
        (kept / name).mkdir(exist_ok=True)
        yield kept / name
    else:
        Path("models").mkdir(exist_ok=True)
        with contextlib.ExitStack() as until_the_end:
            temporary = None
            if launch.rank() == 0:
                temporary = until_the_end.enter_context(tempfile.TemporaryDirectory(dir="models", prefix=".scratch-"))
            yield Path(launch.broadcast_object(temporary))
            launch.wait()


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file that is there when all of it is written, or as it was."""
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        yield file
    os.replace(partial, path)


def save(path: Path, values: np.ndarray) -> None:
    """As .npy, whole or not at all."""
    with _whole(path) as file:
        np.save(file, values)


def write(path: Path, content: dict) -> None:
    """As JSON, whole or not at all."""
    with _whole(path) as file:
        file.write(json.dumps(content).encode())


def read(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def fingerprint(stage: str, arguments: list[str]) -> str:
    """Of a stage's command, parameters, code and inputs, the libraries, and how the processor computes."""
    entry, parameters = _yaml(Path("dvc.yaml"))["stages"][stage], _yaml(Path("params.yaml"))
    task = "".join(arguments)
    keys, paths = ([text.replace("${item.task}", task) for text in entry.get(part, [])] for part in ("params", "deps"))
    found = {
        "stage": [stage, *arguments],
        "parameters": {key: _value(parameters, key) for key in keys},
        "inputs": {path: _content(Path(path)) for path in paths},
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "processor": [torch.get_num_threads(), torch.backends.cpu.get_cpu_capability(), torch.cuda.is_available()],
        "processes": launch.world_size(),
    }
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:20]


def _yaml(path: Path) -> dict:
    import ruamel.yaml

    return ruamel.yaml.YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def _value(parameters: dict, key: str) -> object:
    for part in key.split("."):
        parameters = parameters[part]
    return parameters


def _content(path: Path) -> str:
    """A hash of a file, or of the names and contents of a folder; nothing where there is none."""
    digest = hashlib.blake2b(digest_size=20)
    files = [path]
    if path.is_dir():
        files = sorted(entry for entry in path.rglob("*") if entry.is_file() and "__pycache__" not in entry.parts)
    for file in files:
        if file.is_file():
            digest.update(file.relative_to(path).as_posix().encode())
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "blake2b").digest())
    return digest.hexdigest()


def _beside_the_cache() -> Path:
    """In `.dvc/tmp` of the repository whose cache this workspace uses; in the workspace's own, where the cache is in no
    repository.
    """
    settings = ConfigParser()
    settings.read([".dvc/config", ".dvc/config.local"], encoding="utf-8")
    repository = Path(".dvc", settings.get("cache", "dir", fallback="cache")).resolve().parent
    return (repository if repository.name == ".dvc" else Path(".dvc").resolve()) / "tmp" / "scratch"


def _forget_old_ones(kept: Path) -> None:
    for path in kept.glob("*"):
        if time.time() - path.stat().st_mtime > FORGOTTEN_AFTER * 24 * 3600:
            shutil.rmtree(path, ignore_errors=True)
