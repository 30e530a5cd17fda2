"""Ablations: how much each part of the recipe contributes. The paper's ablations and some of ours, as DVC experiments.

``python benchmarks/ablations.py --queue`` queues the experiments, each row of the table with three seeds, and
``dvc queue start`` runs them. ``python benchmarks/ablations.py`` prints the results from `dvc exp show`: mean and
standard deviation of the student's scores, beside the paper's average (Jiao et al. 2020, tables 2 to 4: TinyBERT4 on
the development sets of four GLUE tasks). Stages that rows share run once. Model sizes are those of params.yaml.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import ruamel.yaml
from comparison import print_table

ROOT = Path(__file__).resolve().parents[1]
FULL_RECIPE = "full recipe"
LOSSES = "distill_intermediate.losses"
LAYER_MAP = "distill_intermediate.layer_map"
GENERAL_DISTILLATION = {"general_student.start": "distillation"}
NO_INTERMEDIATE = {"distill_intermediate.epochs": 0}
# Each model's name in scores.json, and the stage that scores it on validation.
STUDENT = "student", "distill_prediction"
OTHERS = {
    "teacher": ("teacher", "finetune_teacher"),
    "student without distillation": ("student_alone", "finetune_student"),
}


def ablations(task: str) -> dict[str, tuple[dict, float | None]]:
    """Row → its changed settings, and the paper's average score."""
    return {
        FULL_RECIPE: ({}, 75.6),
        "without augmentation": ({"augment.variants": 0}, 68.4),
        "without unlabelled text": ({f"tasks.{task}.unlabelled": None, "augment.general_texts": 0}, None),
        "without embedding loss": ({f"{LOSSES}.embeddings": 0}, 74.1),
        "without hidden loss": ({f"{LOSSES}.hidden": 0}, 72.9),
        "without attention loss": ({f"{LOSSES}.attention": 0}, 71.0),
        "without all transformer losses": (NO_INTERMEDIATE, 56.3),
        "without prediction loss": ({"distill_prediction.targets": "labels"}, 73.5),
        "uniform layer map": ({LAYER_MAP: "uniform"}, 75.6),  # the paper's default
        "top layers map": ({LAYER_MAP: "last"}, 70.9),
        "bottom layers map": ({LAYER_MAP: "first"}, 71.3),
        "general student by distillation": (GENERAL_DISTILLATION, None),
        "general student by distillation, without all transformer losses": (
            GENERAL_DISTILLATION | NO_INTERMEDIATE,
            None,
        ),
    }


def changed(params: dict, changes: dict) -> dict:
    """A copy of the parameters without the seed, with ``changes`` (dotted key → value) applied."""
    params = copy.deepcopy(params)
    params.pop("seed")
    for key, value in changes.items():
        *groups, last = key.split(".")
        reduce(dict.__getitem__, groups, params)[last] = value
    return params


def queue(task: str, rows: dict[str, dict], seeds: list[int]) -> None:
    """Queue an experiment for each row and seed."""
    for name, changes in rows.items():
        values = {key: "null" if value is None else value for key, value in changes.items()}
        values["seed"] = ",".join(map(str, seeds))
        settings = [part for key, value in values.items() for part in ("--set-param", f"{key}={value}")]
        print(f"{name}: {' '.join(settings[1::2])}", flush=True)
        subprocess.run(["dvc", "exp", "run", "--queue", *settings, f"evaluate@{task}"], cwd=ROOT, check=True)


def experiments() -> Iterator[dict]:
    """Yield the parameters and metrics, by file, of the finished experiments in `dvc exp show --json`.

    For an unfinished experiment, DVC shows the metrics of the commit it started from.
    """
    printed = subprocess.run(["dvc", "exp", "show", "--json"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    for commit in json.loads(printed):
        for experiment in commit["experiments"] or []:
            done = experiment["executor"] is None or experiment["executor"]["state"] == "success"
            if done and (data := experiment["revs"][0]["data"]):
                yield data


def matching(finished: list[dict], wanted: dict) -> dict[int, dict]:
    """Seed → the metrics, by file, of the experiments whose parameters equal ``wanted`` except for the seed."""
    pairs = ((data["params"]["params.yaml"]["data"], data["metrics"]) for data in finished)
    return {params["seed"]: metrics for params, metrics in pairs if changed(params, {}) == wanted}


def spread(scores: list[float]) -> str:
    """Mean and standard deviation, in points (hundredths)."""
    points = [100 * score for score in scores]
    deviation = f" ± {statistics.stdev(points):.1f}" if len(points) > 1 else ""
    return f"{statistics.mean(points):.1f}{deviation}" if points else ""


def difference(scores: list[float], reference: list[float]) -> str:
    """Difference of the means, in points."""
    return f"{100 * (statistics.mean(scores) - statistics.mean(reference)):+.1f}" if scores and reference else ""


@dataclass
class Scores:
    """A model's scores, one per seed: on validation, on test, and the test score divided by the teacher's."""

    validation: list[float]
    test: list[float]
    retention: list[float]

    @classmethod
    def read(cls, metrics: Iterable[dict], task: str, metric: str, model: str, stage: str) -> Scores:
        paths = f"metrics/{task}/{stage}/validation.json", f"metrics/{task}/scores.json"
        reports = [[files[path]["data"] for path in paths] for files in metrics if files.keys() >= set(paths)]
        test = [(scores[model][metric], scores["teacher"][metric]) for _, scores in reports]
        return cls(
            [validation[metric] for validation, _ in reports],
            [score for score, _ in test],
            [score / teacher for score, teacher in test if teacher > 0],
        )

    def cells(self, reference: Scores) -> list[str]:
        """Seeds, validation, difference to ``reference``, test, retention."""
        gap = difference(self.validation, reference.validation)
        return [str(len(self.test)), spread(self.validation), gap, spread(self.test), spread(self.retention)]


def table(finished: list[dict], task: str, names: list[str], base: dict) -> Iterator[list[str]]:
    """Yield rows for the teacher, the baseline, and each ablation, over the finished seeds."""
    rows, metric = ablations(task), base["tasks"][task]["metric"]
    metrics = {name: matching(finished, changed(base, rows[name][0])).values() for name in {FULL_RECIPE, *names}}
    full = Scores.read(metrics[FULL_RECIPE], task, metric, *STUDENT)
    for name, model in OTHERS.items():
        yield [name, *Scores.read(metrics[FULL_RECIPE], task, metric, *model).cells(full), "", ""]
    for name in names:
        _, paper = rows[name]
        papers = ["", ""] if paper is None else [f"{paper}", f"{paper - rows[FULL_RECIPE][1]:+.1f}"]
        yield [name, *Scores.read(metrics[name], task, metric, *STUDENT).cells(full), *papers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", default="rotten_tomatoes")
    parser.add_argument("--queue", action="store_true", help="queue the experiments instead of printing the table")
    parser.add_argument("--rows", nargs="+", choices=ablations(""), default=list(ablations("")), metavar="ROW")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    task, names = arguments.task, arguments.rows
    if arguments.queue:
        queue(task, {name: ablations(task)[name][0] for name in names}, arguments.seeds)
        return
    base = ruamel.yaml.YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    columns = ["", "seeds", "validation", "difference", "test", "retention", "paper", "difference"]
    print_table(columns, list(table(list(experiments()), task, names, base)))


if __name__ == "__main__":
    main()
