"""The tiny world, built once: every test that needs what the stages leave takes a copy."""

import os

# Before the libraries read them: no network, and one thread, which is the fastest for models so small.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TINYBERT_PROCESSES": "1"}

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny
import torch
from tiny import COMMON, OF_ALL, PER_TASK, ROOT, run_stage
from transformers import AutoConfig

from pipeline import benchmark
from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings
from pipeline.tinybert.release import onnx_model, release_folder

PAD = tiny.tokenizer().pad_token_id


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Only a power failure needs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        yield


@pytest.fixture(scope="session")
def finished_world(tmp_path_factory) -> Path:
    """A folder in which every stage has run."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(ROOT / "params.yaml", folder)
    tiny.write_world(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (*COMMON, *PER_TASK, *OF_ALL):
            run_stage(stage)
    return folder


@pytest.fixture
def world(finished_world, tmp_path, monkeypatch) -> Path:
    """A copy of the finished world, and the working folder."""
    folder = tmp_path / "world"
    shutil.copytree(finished_world, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def exported_kinds() -> dict[str, Path]:
    """Kind → where what its stages left is kept."""
    return {}


@pytest.fixture
def exported_kind(world, exported_kinds, tmp_path_factory) -> Callable[[str], str]:
    """``exported_kind(kind)``: a task of the kind stands in the world up to `export`, its teacher in the student's
    place; gives back its name.
    """

    def make(kind: str) -> str:
        tiny.write_task(world, kind)
        if kind in exported_kinds:
            shutil.copytree(exported_kinds[kind], world, dirs_exist_ok=True)
            return kind
        for stage in ("prepare", "finetune_teacher"):
            run_stage(stage, kind)
        shutil.copytree(f"models/{kind}/teacher", f"models/{kind}/student")
        run_stage("export", kind)
        exported_kinds[kind] = tmp_path_factory.mktemp(kind)
        for part in ("models", "data", "metrics"):
            shutil.copytree(Path(part, kind), exported_kinds[kind] / part / kind)
        return kind

    return make


@pytest.fixture
def release(exported_kind) -> Callable[[str], Path]:
    """``release(kind)``: the release folder of a task of this kind, without its card. ``threshold``: of "no answer"."""

    def make(kind: str, threshold: float = 0.0) -> Path:
        name = exported_kind(kind)
        configuration, folder = settings.load(), Path("models", name, "release")
        task = tasks.load(configuration, name)
        folder.mkdir()
        serving = release_folder.serving_settings(task, configuration.task(name), threshold)
        release_folder.write(folder.with_name("onnx"), folder, serving)
        return folder.absolute()

    return make


@pytest.fixture
def repository(world) -> Path:
    """The world with this project's stages, and a DVC folder: there a stage keeps what a killed run would lose."""
    shutil.copy(ROOT / "dvc.yaml", world)
    (world / ".dvc").mkdir()
    return world


@pytest.fixture
def teacher_not_exported(monkeypatch) -> None:
    """`benchmark` exports no teacher, which takes most of its time. It would only log a failure."""
    monkeypatch.setattr(benchmark, "write_teacher", lambda *arguments: None)


@pytest.fixture
def both_int8(monkeypatch, tmp_path):
    """``both_int8(path, tokenizer)``: the number of layers with fused attention; the int8 file, and a plain one."""

    def make(path, tokenizer):
        files = [tmp_path / "int8.onnx", tmp_path / "plain_int8.onnx"]
        config = AutoConfig.from_pretrained(path.parent)
        layers = onnx_model.quantise(path, files[0], config, tokenizer, per_channel=True, reduce_range=True)
        monkeypatch.setattr(onnx_model, "fuse_attention", lambda content: (content, 0))
        assert onnx_model.quantise(path, files[1], config, tokenizer, per_channel=True, reduce_range=True) == 0
        return layers, *(onnx_model.session(file, threads=1) for file in files)

    return make


@pytest.fixture
def task():
    return tiny.task(["negative", "positive"])


@pytest.fixture
def batch():
    """``batch(lengths, padding)``: random model inputs of these lengths, padded to the longest and by ``padding``."""

    def make(lengths, padding: int = 0) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(0)
        ids = torch.full((len(lengths), max(lengths) + padding), PAD)
        for row, length in enumerate(lengths):
            ids[row, :length] = torch.randint(5, len(tiny.tokenizer()), (length,), generator=draw)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "token_type_ids": torch.zeros_like(ids)}

    return make


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[Path, int], None]]:
    """``small_disk(folder, kib)``: from now on the folder, with what it holds, is a file system of that size.

    Where the machine lets no test mount one, the test is skipped.
    """
    mounted = []

    def mount(folder: Path, kib: int) -> None:
        content = shutil.copytree(folder, tmp_path / "content")
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a small file system is not permitted here")
        mounted.append(folder)
        shutil.copytree(content, folder, dirs_exist_ok=True)

    yield mount
    for folder in mounted:  # a torch.save that failed keeps its file open
        subprocess.run(["umount", "--lazy", folder], check=True)
