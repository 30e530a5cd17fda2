"""Run stages on the tests' tiny models and data, each in its own process, as `dvc repro` does."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import tiny

STAGES = (*tiny.COMMON, *tiny.PER_TASK)


def finished_world(folder: Path, **changes) -> None:
    """Run all stages once, so that every stage's inputs exist. ``changes``: see ``tiny.write_params``."""
    shutil.copy(ROOT / "params.yaml", folder)
    tiny.write_world(folder, **changes)
    for stage in STAGES:
        run_stage(folder, stage)


def run_stage(folder: Path, stage: str) -> tuple[float, float]:
    """Run a stage in ``folder``, in its own process; return its seconds and its peak memory in MiB."""
    command = [sys.executable, "-m", f"pipeline.{stage}", *([] if stage in tiny.COMMON else ["tiny"])]
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            output.seek(0)
            sys.exit(f"{stage} failed:\n{output.read().decode()[-2000:]}")
    return seconds, usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
