"""Every kind of task on real data: ``python benchmarks/kinds.py --data FOLDER`` prints one table.

The tasks are in kinds.yaml, beside this script. FOLDER contains a folder for each task, with the files that its entry
names. Each task runs by `dvc repro` in a clone of the last commit under `.dvc/tmp/kinds`. The clones share DVC's cache,
so that finished stages do not run again. Name tasks to run only those. ``--set KEY=VALUE`` changes a value of
params.yaml, for example ``seed=2`` or ``tasks.cola.augment={variants: 0}``. ``--jobs 2`` runs two tasks at once, each
on half of the cores; minutes in the table are those of one task. ``--upto STAGE`` stops after a stage and prints no
table.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ruamel.yaml
from transformers import AutoConfig

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from comparison import machine, multiplications
from small import change, setting
from stages import LINE

from pipeline.tinybert.models.checkpoints import shape_of

ENTRIES = Path(__file__).with_name("kinds.yaml")
SHARED_STAGES = ("encoder", "word_vectors")
AFTER_EVALUATE = ("export", "benchmark", "package")
MODELS = ("teacher", "student", "student_alone")
YAML = ruamel.yaml.YAML(pure=True)


def clone(folder: Path, entry: dict, data: Path, encoder: Path | None, changes: dict) -> None:
    """Make or renew a clone of the last commit for the task that the folder is named after.

    params.yaml gets the task's entry and the changes. The clone uses this repository's DVC cache. ``encoder``: the
    folder of a stronger teacher, which the entry names in `finetune_teacher.encoder`.
    """
    commit = git(ROOT, "rev-parse", "HEAD").strip()
    if folder.exists():
        git(folder, "fetch", "--quiet", "origin", commit)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        git(folder.parent, "clone", "--quiet", str(ROOT), folder.name)
    git(folder, "reset", "--quiet", "--hard", commit)
    subprocess.run(["dvc", "cache", "dir", "--quiet", "--local", str(ROOT / ".dvc" / "cache")], cwd=folder, check=True)
    copy_files(folder.name, entry, data, folder)
    if encoder:
        copy = folder / "data" / "raw" / "finetune_teacher" / encoder.name
        shutil.copytree(encoder, copy, dirs_exist_ok=True, copy_function=shutil.copyfile)

    params = YAML.load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["run"] = [folder.name]
    params["tasks"][folder.name] = entry
    with open(folder / "params.yaml", "w", encoding="utf-8", newline="\n") as file:
        YAML.dump(params, file)
    change(folder / "params.yaml", changes)


def copy_files(task: str, entry: dict, data: Path, folder: Path) -> None:
    """Copy the task's files to data/raw/<task>, and files of another task that it reads as unlabelled text to
    data/raw/<task>/<other>: a stage depends only on the folder of its own task.
    """
    if not reads_files(entry):
        return
    raw = folder / "data" / "raw" / task
    shutil.copytree(data / task, raw, dirs_exist_ok=True, copy_function=shutil.copyfile)
    text = Path((entry["unlabelled"] or {}).get("location", ""))
    if text.is_relative_to(f"data/raw/{task}"):
        copy = folder / text
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(data / text.relative_to(f"data/raw/{task}"), copy)


def reads_files(entry: dict) -> bool:
    return not entry["source"]["location"].startswith("package:")


def git(folder: Path, *command: str) -> str:
    return subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True, text=True).stdout


def repro(folder: Path, threads: int, *targets: str) -> bool:
    """Run stages in a clone, and append their output to a log beside it. Returns whether they succeeded."""
    log = folder.with_suffix(".log")
    print(f"{folder.name}: dvc repro {' '.join(targets)}; output in {log}", flush=True)
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.run(
            ["dvc", "repro", *targets],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
    if process.returncode:
        print(f"{folder.name}: failed: see the end of {log}", file=sys.stderr, flush=True)
    return not process.returncode


def share_of_flops(folder: Path, task: str, length: int) -> float:
    """The student's floating-point operations divided by the teacher's, for a text of ``length`` word pieces."""
    configurations = (AutoConfig.from_pretrained(folder / "models" / task / which) for which in ("student", "teacher"))
    student, teacher = (multiplications(shape_of(config), length) for config in configurations)
    return student / teacher


def measured(log: Path) -> tuple[str, str]:
    """Minutes of the task's own stages, and their peak memory in GiB, from the latest run of each in the log.

    Both are "unknown" if a stage never ran here because its outputs were in DVC's cache.
    """
    latest = {}
    for line in re.split(r"[\r\n]+", log.read_text(encoding="utf-8")):
        if (match := LINE.match(line.strip())) and match["task"]:
            latest[match["stage"]] = match
    if set(latest) != stages_of_a_task():
        return "unknown", "unknown"
    minutes = sum(float(match["seconds"]) for match in latest.values()) / 60
    return f"{minutes:.0f}", f"{max(float(match['memory']) for match in latest.values()):.2f}"


def stages_of_a_task() -> set[str]:
    """The stages of one task up to its scores."""
    stages = YAML.load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {name for name, stage in stages.items() if "matrix" in stage and name not in AFTER_EVALUATE}


def row(folder: Path, entry: dict) -> str:
    task, metric = folder.name, entry["metric"]
    scores = json.loads((folder / "metrics" / task / "scores.json").read_text(encoding="utf-8"))
    validation = json.loads(
        (folder / "metrics" / task / "distill_prediction" / "validation.json").read_text(encoding="utf-8")
    )
    numbers = [*(scores[which][metric] for which in MODELS), scores["retention"], validation[metric]]
    cells = ["undefined" if number is None else f"{100 * number:.1f}" for number in numbers]
    value, low, high = (100 * scores["gain"][key] for key in ("value", "low", "high"))
    cells.insert(len(MODELS), f"{value:+.1f} ({low:.1f} to {high:.1f})")
    share = share_of_flops(folder, task, entry["max_length"])
    return f"| {' | '.join([task, metric, *cells, f'{100 * share:.0f} %', *measured(folder.with_suffix('.log'))])} |"


def main() -> None:
    entries = read(ENTRIES)
    run(parser(__doc__.splitlines()[0], entries).parse_args(), ENTRIES.stem, entries)


def read(file: Path) -> dict[str, dict]:
    """A file's tasks: their entries by name."""
    return YAML.load(file.read_text(encoding="utf-8"))["tasks"]


def parser(description: str, entries: dict[str, dict]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("tasks", nargs="*", help=f"default: all of {', '.join(entries)}")
    parser.add_argument("--data", type=Path, required=True, help="the folder that contains a folder for each task")
    parser.add_argument(
        "--set", nargs="+", action="extend", type=setting, default=[], metavar="KEY=VALUE", help="change params.yaml"
    )
    parser.add_argument("--jobs", type=int, default=1, help="number of tasks that run at once")
    parser.add_argument("--upto", help="the last stage to run")
    return parser


def run(arguments: argparse.Namespace, name: str, entries: dict[str, dict], encoder: Path | None = None) -> None:
    """Run the tasks in clones below `.dvc/tmp/<name>`, and print the table."""
    tasks = arguments.tasks or list(entries)
    if unknown := set(tasks) - set(entries):
        sys.exit(f"no such task: {', '.join(sorted(unknown))}: expected one of {', '.join(entries)}")

    needed = [arguments.data / task for task in tasks if reads_files(entries[task])]
    if missing := [str(folder) for folder in needed if not folder.is_dir()]:
        sys.exit(f"--data: no such folder: {', '.join(missing)}")

    cores = os.cpu_count() or 1
    folders = {task: ROOT / ".dvc" / "tmp" / name / task for task in tasks}
    for task, folder in folders.items():
        clone(folder, entries[task], arguments.data, encoder, dict(arguments.set))
    if not repro(folders[tasks[0]], cores, *SHARED_STAGES):
        sys.exit(1)
    threads = max(1, cores // arguments.jobs)
    last = arguments.upto or "evaluate"
    with ThreadPoolExecutor(arguments.jobs) as pool:
        succeeded = list(pool.map(lambda task: repro(folders[task], threads, f"{last}@{task}"), tasks))
    if not arguments.upto:
        print(f"\n{machine()}; {', '.join(f'{key}={value}' for key, value in arguments.set) or 'no changes'}")
        print_table([(folders[task], entries[task]) for task, success in zip(tasks, succeeded, strict=True) if success])
    sys.exit(not all(succeeded))


def print_table(done: list[tuple[Path, dict]]) -> None:
    print(
        "\n| task | metric, in % | teacher | student | student without distillation | gain | retention "
        "| student, validation | FLOPs | minutes | GiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for folder, entry in done:
        print(row(folder, entry))


if __name__ == "__main__":
    main()
