"""What each part of the pipeline is worth: ``python benchmarks/variants.py`` runs variants of the default task.

Each variant is a `dvc exp run --temp` with the settings named here; stages that it shares with an earlier run come from
DVC's cache, and the workspace stays as it is. Prints one table. Name variants to run only those; `--list` shows them.
"""

import argparse
import json
import subprocess
import sys

import dvc.api

TASK = "rotten_tomatoes"
VARIANTS = {
    "seed 1": [],
    "seed 2": ["seed=2"],
    "seed 3": ["seed=3"],
    "without augmentation": ["augment.variants=0"],
    "without the intermediate stage": ["distill_intermediate.epochs=0"],
    "without unlabelled text": [f"tasks.{TASK}.unlabelled=null"],
    "general student by distillation": ["general_student.start=distillation"],
}
SHOWN = ("teacher", "student", "student_alone")


def run(name: str, changes: list[str]) -> str:
    """Run a variant as an experiment and return the experiment's name."""
    experiment = "variant-" + name.replace(" ", "-")
    flags = [flag for change in changes for flag in ("--set-param", change)]
    subprocess.run(["dvc", "exp", "remove", "--quiet", experiment], check=False)
    subprocess.run(["dvc", "exp", "run", "--temp", "--name", experiment, *flags], check=True)
    return experiment


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
    arguments = parser.parse_args()
    if arguments.list:
        for name, changes in VARIANTS.items():
            print(f"{name}: {', '.join(changes) or 'the default'}")
        return
    unknown = set(arguments.variants) - set(VARIANTS)
    if unknown:
        sys.exit(f"no such variant: {', '.join(sorted(unknown))} (there are: {', '.join(VARIANTS)})")
    names = arguments.variants or list(VARIANTS)
    rows = [row(name, run(name, VARIANTS[name])) for name in names]
    print("\n| | student, validation | teacher | student | student alone | retention | student over alone |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
