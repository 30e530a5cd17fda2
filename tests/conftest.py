"""The tiny world, built once: every test that needs what the stages leave takes a copy."""

import os

# Before the libraries read them: no network, and one thread, which is the fastest for models so small.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

import importlib
import shutil
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).parents[1]
COMMON = ("encoder", "word_vectors")
PER_TASK = (
    "prepare",
    "general_student",
    "finetune_teacher",
    "augment",
    "distill_intermediate",
    "distill_prediction",
    "finetune_student",
    "evaluate",
)


def run_stage(stage: str, task: str = "tiny") -> None:
    """A stage in this process, in the working folder: the start of a process of its own takes seconds."""
    importlib.import_module(f"pipeline.{stage}").main(*([] if stage in COMMON else [task]))


@pytest.fixture(scope="session")
def finished_world(tmp_path_factory) -> Path:
    """A folder in which every stage has run."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(ROOT / "params.yaml", folder)
    tiny.write_world(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (*COMMON, *PER_TASK):
            run_stage(stage)
    return folder


@pytest.fixture
def world(finished_world, tmp_path, monkeypatch) -> Path:
    """A copy of the finished world, and the working folder."""
    folder = tmp_path / "world"
    shutil.copytree(finished_world, folder)
    monkeypatch.chdir(folder)
    return folder
