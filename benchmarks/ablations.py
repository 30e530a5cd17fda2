"""What each part of the recipe is worth: the paper's ablations, as a grid of DVC's experiments.

``python benchmarks/ablations.py --queue`` queues the grid, each row over three seeds; ``dvc queue start`` runs it, and
``python benchmarks/ablations.py`` prints what `dvc exp show` knows of it: mean and spread of the student's score on
validation, beside the paper's average (Jiao et al. 2020, tables 2 to 4: TinyBERT4 on dev, four GLUE tasks). The stages
that rows share come from DVC's cache. As there are thirty students, the sizes are smaller than the default (``--full``:
as they are).
"""

import argparse
import json
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

import ruamel.yaml
from comparison import print_table

ROOT = Path(__file__).resolve().parents[1]
EVERYTHING = "everything"
LOSSES = "distill_intermediate.losses"
LAYER_MAP = "distill_intermediate.layer_map"
ABLATIONS = {  # what the row changes, and the paper's average
    EVERYTHING: ({}, 75.6),
    "without augmentation": ({"augment.variants": 0}, 68.4),
    "without embedding loss": ({f"{LOSSES}.embeddings": 0}, 74.1),
    "without hidden loss": ({f"{LOSSES}.hidden": 0}, 72.9),
    "without attention loss": ({f"{LOSSES}.attention": 0}, 71.0),
    "without all transformer losses": ({"distill_intermediate.epochs": 0}, 56.3),
    "without prediction loss": ({"distill_prediction.targets": "labels"}, 73.5),
    "uniform layer map": ({LAYER_MAP: "uniform"}, 75.6),  # the paper's own
    "top layers map": ({LAYER_MAP: "last"}, 70.9),
    "bottom layers map": ({LAYER_MAP: "first"}, 71.3),
}


def smaller(task: str) -> dict:
    return {"augment.variants": 1, "distill_intermediate.max_rows": 4000, f"tasks.{task}.unlabelled.limit": 6000}


def at(values: dict, key: str):
    """The value at a dotted key."""
    for part in key.split("."):
        values = (values or {}).get(part)
    return values


def queue(task: str, names: list[str], seeds: list[int], size: dict) -> None:
    for name in names:
        values = {**size, **ABLATIONS[name][0], "seed": ",".join(map(str, seeds))}
        settings = [part for key, value in values.items() for part in ("--set-param", f"{key}={value}")]
        print(f"{name}: {' '.join(settings[1::2])}", flush=True)
        subprocess.run(["dvc", "exp", "run", "--queue", *settings, f"distill_prediction@{task}"], cwd=ROOT, check=True)


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


def scores(found: list[dict], task: str, wanted: dict) -> dict[int, float]:
    """Seed → the student's score on validation, of the experiments with these settings."""
    path, made = f"metrics/{task}/distill_prediction/validation.json", {}
    for data in found:
        params = data["params"]["params.yaml"]["data"]
        measured = data["metrics"].get(path, {}).get("data")
        if measured and all(at(params, key) == value for key, value in wanted.items()):
            made[params["seed"]] = measured[at(params, f"tasks.{task}.metric")]
    return made


def rows(found: list[dict], task: str, names: list[str], base: dict, size: dict) -> Iterator[list[str]]:
    """A row for each ablation: mean and spread (standard deviation), in points, over the seeds that are done."""
    keys = {key for changes, _ in ABLATIONS.values() for key in changes} | set(size)
    usual = {key: at(base, key) for key in keys} | size
    means = {}
    for name in names:
        changes, paper = ABLATIONS[name]
        values = [100 * score for score in scores(found, task, usual | changes).values()]
        means[name] = statistics.mean(values) if values else None
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        score = f"{means[name]:.1f}{spread}" if values else ""
        whole = means.get(EVERYTHING)
        difference = "" if None in (means[name], whole) else f"{means[name] - whole:+.1f}"
        yield [name, str(len(values)), score, difference, f"{paper}", f"{paper - ABLATIONS[EVERYTHING][1]:+.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", default="rotten_tomatoes")
    parser.add_argument("--queue", action="store_true", help="queue the experiments; else print the table")
    parser.add_argument("--rows", nargs="+", choices=ABLATIONS, default=list(ABLATIONS), metavar="ROW")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--full", action="store_true", help="at the sizes of params.yaml")
    arguments = parser.parse_args()
    task, names, size = arguments.task, arguments.rows, {} if arguments.full else smaller(arguments.task)
    if arguments.queue:
        queue(task, names, arguments.seeds, size)
        return
    base = ruamel.yaml.YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    columns = ["", "seeds", "validation", "difference", "paper", "difference"]
    print_table(columns, list(rows(list(experiments()), task, names, base, size)))


if __name__ == "__main__":
    main()
