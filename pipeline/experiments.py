"""A short table of all experiments: ``python -m pipeline.experiments [TASK]`` (without TASK: the first one in `run`).

Each row has the settings that differ between the experiments, and the task's scores on test: the student's, the int8
model's, gain, retention, agreement, calibration error and the int8 model's latency. `dvc exp show` has all columns.

If an experiment runs no `export` or `benchmark`, DVC keeps the results of the commit that it started from. Their cells
are blank: dvc.lock says which models were measured.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator

from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.report.freshness import is_up_to_date, lock_of
from pipeline.tinybert.report.settings_table import flattened, keys_that_differ

SCORES = {  # column → the report and the keys of its value; METRIC stands for the task's metric
    "student": ("scores", "student.METRIC"),
    "int8": ("export", "int8.METRIC"),
    "gain": ("scores", "gain.value"),
    "retention": ("scores", "retention"),
    "agreement": ("scores", "agreement"),
    "calibration error": ("scores", "student.calibration_error"),
    "int8 ms": ("benchmark", "student.int8.p50"),
}
HERE = "workspace"  # DVC's name of this folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.experiments", description="A short table of experiments.")
    parser.add_argument("task", nargs="?", metavar="TASK", help="default: the first one in `run`")
    configuration = settings.load()
    task = parser.parse_args().task or configuration.run[0]
    metric = configuration.task(task).metric
    done = subprocess.run([sys.executable, "-m", "dvc", "exp", "show", "--json"], capture_output=True, encoding="utf-8")
    if done.returncode:
        raise UserError(f"dvc exp show failed: {done.stderr.strip()}")
    for line in aligned(table(json.loads(done.stdout), task, metric)):
        print(line)


def table(shown: list[dict], task: str, metric: str) -> list[list[str]]:
    """A row of titles, then one for each commit and experiment in the output of ``dvc exp show --json``."""
    revisions = list(revisions_of(shown))
    of_each = [parameters(revision) for *_, revision in revisions]
    differ = keys_that_differ(of_each)
    lines = [["experiment", *differ, *SCORES]]
    for (name, commit, revision), values in zip(revisions, of_each, strict=True):
        own, lock = [str(values.get(key, "")) for key in differ], lock_of(None if commit == HERE else commit)
        scores = (score(revision, task, metric, *place) if is_up_to_date(lock, task, place[0]) else ""
                  for place in SCORES.values())  # fmt: skip
        lines.append([name, *own, *scores])
    return lines


def revisions_of(shown: list[dict]) -> Iterator[tuple[str, str, dict]]:
    """(name, commit, data) of this folder, of each commit and, indented, of the experiments that start from it."""
    for commit in shown:
        yield commit["name"] or commit["rev"][:9], commit["rev"], commit["data"] or {}
        for experiment in commit["experiments"] or []:
            state = (experiment["executor"] or {}).get("state")
            last = experiment["revs"][0]
            waiting = f" ({state})" if state in ("queued", "running", "failed") else ""
            yield f"  {last['name'] or last['rev'][:9]}{waiting}", last["rev"], last["data"] or {}


def parameters(revision: dict) -> dict[str, object]:
    return dict(flattened(revision.get("params", {}).get("params.yaml", {}).get("data") or {}))


def score(revision: dict, task: str, metric: str, report: str, keys: str) -> str:
    """A score with four digits; empty if the experiment has none, or has one that is undefined."""
    value = (revision.get("metrics") or {}).get(f"metrics/{task}/{report}.json", {}).get("data") or {}
    for key in keys.replace("METRIC", metric).split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return f"{value:.4f}" if isinstance(value, int | float) else ""


def aligned(lines: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


if __name__ == "__main__":
    stage.imports_are_done()
    main()
