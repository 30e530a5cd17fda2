"""What each part of the pipeline is worth: ``python benchmarks/variants.py`` runs variants of the default task.

Each variant is a `dvc exp run --temp` with the settings named here; stages that it shares with an earlier run come from
DVC's cache, and the workspace stays as it is. Prints one table. Name variants to run only those; `--list` shows them.
``--jobs 2`` runs two at once, which on a CPU is sooner done with OMP_NUM_THREADS set to half of its cores.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dvc.api

TASK = "rotten_tomatoes"
STUDENT = f"models/{TASK}/general_student"
LONGER = ["general_student.start=distillation", "general_student.distillation.text.limit=40000"]
CHECKPOINT = Path("models/general_student_checkpoint").absolute()
VARIANTS = {
    "seed 1": [],
    "seed 2": ["seed=2"],
    "seed 3": ["seed=3"],
    "without augmentation": ["augment.variants=0"],
    "without the intermediate stage": ["distill_intermediate.epochs=0"],
    "without unlabelled text": [f"tasks.{TASK}.unlabelled=null"],
    "general student by distillation": ["general_student.start=distillation"],
    "general student by distillation, without the intermediate stage": [
        "general_student.start=distillation",
        "distill_intermediate.epochs=0",
    ],
    "general student from a checkpoint": [
        "general_student.start=checkpoint",
        f"general_student.checkpoint={CHECKPOINT}",
    ],
}
SHOWN = ("teacher", "student", "student_alone")


def run(name: str) -> str:
    """Run a variant as an experiment and return its row of the table."""
    changes = VARIANTS[name]
    if any(str(CHECKPOINT) in change for change in changes):
        make_checkpoint()
    experiment = "variant-" + name.replace(",", "").replace(" ", "-")
    run_experiment(experiment, changes, f"evaluate@{TASK}")
    return row(name, experiment)


def run_experiment(name: str, changes: list[str], *targets: str) -> None:
    flags = [flag for change in changes for flag in ("--set-param", change)]
    subprocess.run(["dvc", "exp", "remove", "--quiet", name], check=False)
    subprocess.run(["dvc", "exp", "run", "--temp", "--name", name, *flags, *targets], check=True)


def make_checkpoint() -> None:
    """A general student as someone might publish it: distilled from the encoder on twice the text."""
    if not CHECKPOINT.exists():
        run_experiment("general-student-checkpoint", LONGER, f"general_student@{TASK}")
        dvc.api.DVCFileSystem(rev="general-student-checkpoint").get(STUDENT, str(CHECKPOINT), recursive=True)


def row(name: str, experiment: str) -> str:
    scores, validation = (
        json.loads(dvc.api.read(f"metrics/{TASK}/{file}", rev=experiment))
        for file in ("scores.json", "distill_prediction/validation.json")
    )
    numbers = [validation["accuracy"], *(scores[model]["accuracy"] for model in SHOWN), scores["retention"]]
    gain = scores["student"]["accuracy"] - scores["student_alone"]["accuracy"]
    return f"| {name} | {' | '.join(f'{100 * number:.2f}' for number in numbers)} | {100 * gain:+.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="*", help="names of variants; all, where there is none")
    parser.add_argument("--list", action="store_true", help="show the variants and what they change")
    parser.add_argument("--jobs", type=int, default=1, help="how many run at once")
    arguments = parser.parse_args()
    if arguments.list:
        for name, changes in VARIANTS.items():
            print(f"{name}: {', '.join(changes) or 'the default'}")
        return
    unknown = set(arguments.variants) - set(VARIANTS)
    if unknown:
        sys.exit(f"no such variant: {', '.join(sorted(unknown))} (there are: {', '.join(VARIANTS)})")
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(run, arguments.variants or list(VARIANTS)))
    print("\n| | student, validation | teacher | student | student alone | retention | student over alone |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
