"""Time lost by a killed run: ``python benchmarks/killed.py`` kills each stage at three random moments and restarts it.

It works in a copy of a finished workspace. Each stage that can resume runs once without interruption; then it is killed
(SIGKILL) at each moment, restarted each time, and runs to its end. The table shows how much longer this took, start-up
included, per kill, and whether the outputs equal those of the uninterrupted run. ``--stages`` selects some stages.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from comparison import machine, print_table

ROOT = Path(__file__).resolve().parents[1]
STAGES = (
    "encoder",
    "general_student",
    "finetune_teacher",
    "augment",
    "distill_intermediate",
    "distill_prediction",
    "finetune_student",
)
WITHOUT_TASK = ("encoder",)
INPUTS = ("params.yaml", "dvc.yaml", "pipeline", "data", "models", "metrics")
OUTPUTS = ("data", "models", "metrics")


def copy_workspace(workspace: Path, folder: Path) -> None:
    (folder / ".dvc").mkdir()  # stages save their checkpoints here
    for name in INPUTS:
        path = workspace / name
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, folder / name)


def start(folder: Path, stage: str, task: str) -> subprocess.Popen:
    command = [sys.executable, "-m", f"pipeline.{stage}", *([] if stage in WITHOUT_TASK else [task])]
    with open(folder / "output.log", "ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def run_to_the_end(folder: Path, stage: str, task: str) -> float:
    """Run a stage; return its seconds."""
    begin = time.perf_counter()
    if start(folder, stage, task).wait():
        sys.exit(f"{stage} failed:\n{(folder / 'output.log').read_text(errors='replace')[-2000:]}")
    return time.perf_counter() - begin


def kill_after(seconds: float, folder: Path, stage: str, task: str) -> None:
    process = start(folder, stage, task)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def content(folder: Path) -> str:
    """A hash of all output files."""
    digest = hashlib.sha256()
    for path in sorted(path for name in OUTPUTS for path in (folder / name).rglob("*") if path.is_file()):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):  # files of interrupted runs
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def killed(folder: Path, stage: str, task: str, moments: int, draw: random.Random) -> list[str]:
    """The table's row of a stage that is killed at so many random moments."""
    whole = run_to_the_end(folder, stage, task)
    expected = content(folder)
    runs = [draw.uniform(0.1, 0.95) * whole / moments for _ in range(moments)]
    for seconds in runs:
        kill_after(seconds, folder, stage, task)
    last = run_to_the_end(folder, stage, task)
    lost, same = (sum(runs) + last - whole) / moments, content(folder) == expected
    killed_after = ", ".join(f"{seconds:.0f}" for seconds in runs)
    print(f"{stage}: {whole:.0f} s; killed after {killed_after} s; then {last:.0f} s to the end", end="", flush=True)
    print(f"; {lost:.0f} s lost per kill", flush=True)
    return [stage, f"{whole:.0f}", killed_after, f"{lost:.0f}", "same" if same else "different"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", default="rotten_tomatoes")
    parser.add_argument("--within", type=Path, default=ROOT, help="the workspace in which the task's stages ran")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--moments", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, draw = Path(name), random.Random(1)
        copy_workspace(arguments.within, folder)
        table = [killed(folder, stage, arguments.task, arguments.moments, draw) for stage in arguments.stages]
    print(f"\n{machine()}")
    print_table(["stage", "uninterrupted, s", "killed after, s", "lost per kill, s", "outputs"], table)
    sys.exit(any(row[-1] != "same" for row in table))


if __name__ == "__main__":
    main()
