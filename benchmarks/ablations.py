"""What each part of the recipe is worth: the paper's ablations, and some of ours, as a grid of DVC's experiments.

``python benchmarks/ablations.py --queue`` queues the grid, each row over three seeds; ``dvc queue start`` runs it, and
``python benchmarks/ablations.py`` prints what `dvc exp show` knows of it: mean and spread of the student's scores,
beside the paper's average (Jiao et al. 2020, tables 2 to 4: TinyBERT4 on dev, four GLUE tasks). The stages that rows
share come from DVC's cache; sizes are those of params.yaml.
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
EVERYTHING = "everything"
LOSSES = "distill_intermediate.losses"
LAYER_MAP = "distill_intermediate.layer_map"
DISTILLED = {"general_student.start": "distillation"}
NO_STATES = {"distill_intermediate.epochs": 0}
# What each model is called in scores.json, and the stage that scores it on validation.
STUDENT = "student", "distill_prediction"
OTHERS = {
    "teacher": ("teacher", "finetune_teacher"),
    "student alone, on the labels": ("student_alone", "finetune_student"),
}


def ablations(task: str) -> dict[str, tuple[dict, float | None]]:
    """Row → the settings that it changes, and the paper's average."""
    return {
        EVERYTHING: ({}, 75.6),
        "without augmentation": ({"augment.variants": 0}, 68.4),
        "without unlabelled text": ({f"tasks.{task}.unlabelled": None}, None),
        "without embedding loss": ({f"{LOSSES}.embeddings": 0}, 74.1),
        "without hidden loss": ({f"{LOSSES}.hidden": 0}, 72.9),
        "without attention loss": ({f"{LOSSES}.attention": 0}, 71.0),
        "without all transformer losses": (NO_STATES, 56.3),
        "without prediction loss": ({"distill_prediction.targets": "labels"}, 73.5),
        "uniform layer map": ({LAYER_MAP: "uniform"}, 75.6),  # the paper's own
        "top layers map": ({LAYER_MAP: "last"}, 70.9),
        "bottom layers map": ({LAYER_MAP: "first"}, 71.3),
        "general student by distillation": (DISTILLED, None),
        "the same, without all transformer losses": (DISTILLED | NO_STATES, None),
    }


def changed(params: dict, changes: dict) -> dict:
    """A copy of the parameters, but for the seed, with other values at these dotted keys."""
    params = copy.deepcopy(params)
    params.pop("seed")
    for key, value in changes.items():
        *groups, last = key.split(".")
        reduce(dict.__getitem__, groups, params)[last] = value
    return params


def queue(task: str, rows: dict[str, dict], seeds: list[int]) -> None:
    for name, changes in rows.items():
        values = {key: "null" if value is None else value for key, value in changes.items()}
        values["seed"] = ",".join(map(str, seeds))
        settings = [part for key, value in values.items() for part in ("--set-param", f"{key}={value}")]
        print(f"{name}: {' '.join(settings[1::2])}", flush=True)
        subprocess.run(["dvc", "exp", "run", "--queue", *settings, f"evaluate@{task}"], cwd=ROOT, check=True)


def experiments() -> Iterator[dict]:
    """What `dvc exp show --json` has of the experiments that are done: their parameters and metrics, by file.

    One that is not done yet has metrics, too: those of the commit that it began from.
    """
    shown = subprocess.run(["dvc", "exp", "show", "--json"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    for commit in json.loads(shown):
        for experiment in commit["experiments"] or []:
            done = experiment["executor"] is None or experiment["executor"]["state"] == "success"
            if done and (data := experiment["revs"][0]["data"]):
                yield data


def matching(found: list[dict], wanted: dict) -> dict[int, dict]:
    """Seed → the metrics, by file, of the experiment with these parameters, all of them."""
    shown = ((data["params"]["params.yaml"]["data"], data["metrics"]) for data in found)
    return {params["seed"]: metrics for params, metrics in shown if changed(params, {}) == wanted}


def spread(scores: list[float]) -> str:
    """Mean and standard deviation, in points."""
    points = [100 * score for score in scores]
    more = f" ± {statistics.stdev(points):.1f}" if len(points) > 1 else ""
    return f"{statistics.mean(points):.1f}{more}" if points else ""


def difference(scores: list[float], whole: list[float]) -> str:
    return f"{100 * (statistics.mean(scores) - statistics.mean(whole)):+.1f}" if scores and whole else ""


@dataclass
class Scores:
    """What a model has, a score for each seed: on validation, on test, and there in relation to its teacher."""

    validation: list[float]
    test: list[float]
    retention: list[float]

    @classmethod
    def read(cls, metrics: Iterable[dict], task: str, metric: str, model: str, stage: str) -> Scores:
        paths = f"metrics/{task}/{stage}/validation.json", f"metrics/{task}/scores.json"
        found = [[files[path]["data"] for path in paths] for files in metrics if files.keys() >= set(paths)]
        test = [(scores[model][metric], scores["teacher"][metric]) for _, scores in found]
        return cls(
            [validation[metric] for validation, _ in found],
            [score for score, _ in test],
            [score / teacher for score, teacher in test if teacher > 0],
        )

    def cells(self, whole: Scores) -> list[str]:
        shown = [difference(self.validation, whole.validation), spread(self.test), spread(self.retention)]
        return [str(len(self.test)), spread(self.validation), *shown]


def table(found: list[dict], task: str, names: list[str], base: dict) -> Iterator[list[str]]:
    """The teacher, the student alone, and a row for each ablation, over the seeds that are done."""
    rows, metric = ablations(task), base["tasks"][task]["metric"]
    done = {name: matching(found, changed(base, rows[name][0])).values() for name in {EVERYTHING, *names}}
    whole = Scores.read(done[EVERYTHING], task, metric, *STUDENT)
    for name, model in OTHERS.items():
        yield [name, *Scores.read(done[EVERYTHING], task, metric, *model).cells(whole), "", ""]
    for name in names:
        _, paper = rows[name]
        theirs = ["", ""] if paper is None else [f"{paper}", f"{paper - rows[EVERYTHING][1]:+.1f}"]
        yield [name, *Scores.read(done[name], task, metric, *STUDENT).cells(whole), *theirs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", default="rotten_tomatoes")
    parser.add_argument("--queue", action="store_true", help="queue the experiments; else print the table")
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
