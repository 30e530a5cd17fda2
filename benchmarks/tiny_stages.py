"""Stages of the tests' tiny world, each in a process of its own, as `dvc repro` runs them."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import tiny  # noqa: E402

STAGES = (*tiny.COMMON, *tiny.PER_TASK)


def finished_world(folder: Path, **changes) -> None:
    """All stages once, so that each has what it reads; ``changes`` are those of ``tiny.write_params``."""
    shutil.copy(ROOT / "params.yaml", folder)
    tiny.write_world(folder, **changes)
    for stage in STAGES:
        run_stage(folder, stage)


def run_stage(folder: Path, stage: str) -> tuple[float, float]:
    """Seconds and peak memory, MiB, of a stage of the tiny world in ``folder``, in a process of its own."""
    command = [sys.executable, "-m", f"pipeline.{stage}", *([] if stage in tiny.COMMON else ["tiny"])]
    start = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            said.seek(0)
            sys.exit(f"{stage} failed:\n{said.read().decode()[-2000:]}")
    return seconds, usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
