"""What a killed run loses: ``python benchmarks/killed.py`` kills each stage at three random moments and lets it go on.

In a copy of a working copy in which `dvc repro` has ended, each stage that keeps its work runs once to its end; then
again, killed (SIGKILL) at each moment and started anew. Prints by how much longer that took than the whole, starts
included, and whether all bytes that the stage leaves are the same. ``--stages`` names some of them.
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
OF_NO_TASK = ("encoder",)
COPIED = ("params.yaml", "dvc.yaml", "pipeline", "data", "models", "metrics")
WRITTEN = ("data", "models", "metrics")


def copied(within: Path, folder: Path) -> None:
    (folder / ".dvc").mkdir()  # beside which a stage keeps its work
    for name in COPIED:
        path = within / name
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, folder / name)


def start(folder: Path, stage: str, task: str) -> subprocess.Popen:
    command = [sys.executable, "-m", f"pipeline.{stage}", *([] if stage in OF_NO_TASK else [task])]
    with open(folder / "output.log", "ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def seconds_to_the_end(folder: Path, stage: str, task: str) -> float:
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
    """A hash of all files that stages write."""
    digest = hashlib.sha256()
    for path in sorted(path for name in WRITTEN for path in (folder / name).rglob("*") if path.is_file()):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):  # what was half-written
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def killed(folder: Path, stage: str, task: str, moments: int, draw: random.Random) -> list[str]:
    whole = seconds_to_the_end(folder, stage, task)
    expected = content(folder)
    ran = [draw.uniform(0.1, 0.95) * whole / moments for _ in range(moments)]
    for seconds in ran:
        kill_after(seconds, folder, stage, task)
    last = seconds_to_the_end(folder, stage, task)
    lost, same = (sum(ran) + last - whole) / moments, content(folder) == expected
    print(f"{stage}: {whole:.0f} s; killed after {', '.join(f'{part:.0f}' for part in ran)}", end="", flush=True)
    print(f"; then {last:.0f}; lost {lost:.0f} s by each kill", flush=True)
    killed_after = ", ".join(f"{seconds:.0f}" for seconds in ran)
    return [stage, f"{whole:.0f}", killed_after, f"{lost:.0f}", "same" if same else "other"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", default="rotten_tomatoes")
    parser.add_argument("--within", type=Path, default=ROOT, help="the working copy in which the task's stages ran")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--moments", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, draw = Path(name), random.Random(1)
        copied(arguments.within, folder)
        table = [killed(folder, stage, arguments.task, arguments.moments, draw) for stage in arguments.stages]
    print(f"\n{machine()}")
    print_table(["stage", "whole, s", "killed after, s", "lost by each, s", "bytes"], table)
    sys.exit(any(row[-1] != "same" for row in table))


if __name__ == "__main__":
    main()
