"""Write one HTML page with the results: ``python -m pipeline.report [--out report.html] [RUN …]``.

The page needs no network and no other file. It shows this folder's results; each RUN is a commit, a branch or a DVC
experiment to show beside them. The texts of examples are those of the test rows: mind who may read them.
"""

import argparse
import csv
import subprocess
from collections.abc import Iterator
from pathlib import Path

import ruamel.yaml

from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output, parse_json
from pipeline.tinybert.data import rows
from pipeline.tinybert.evaluation import verdicts
from pipeline.tinybert.report import page
from pipeline.tinybert.report.freshness import is_up_to_date, lock_of
from pipeline.tinybert.report.page import Run
from pipeline.tinybert.report.settings_table import flattened, keys_that_differ

HERE = "this folder"
REPORTS = ("scores", "export", "benchmark")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.report", description="Write one page with the results.")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="commits, branches or DVC experiments to show beside it")
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="default: %(default)s")
    arguments = parser.parse_args()
    if not arguments.out.suffix or arguments.out.is_dir():
        raise UserError(f"--out: {arguments.out}: expected the name of a file, such as report.html")
    configuration = settings.load()
    versions = {HERE: None, **{name: commit_of(name) for name in arguments.runs}}
    found = [run for name, commit in versions.items() for task in configuration.run
             if (run := read_run(name, commit, task, configuration))]  # fmt: skip
    if not found:
        raise UserError(f"no metrics/<task>/scores.json of {', '.join(configuration.run)} (`run`): run `dvc repro`")
    with output(arguments.out) as out:
        out.write_text(page.render(found, settings_that_differ(versions)), encoding="utf-8", newline="\n")
    log(f"{arguments.out}: open it in a browser ({arguments.out.stat().st_size / 1e3:.0f} kB)")


def commit_of(name: str) -> str:
    """The commit of a branch, commit or experiment. Raises UserError if there is none."""
    experiments = git("for-each-ref", "refs/exps", "--format=%(objectname) %(refname:lstrip=-1)") or ""
    of_experiment = dict(line.split(" ", 1)[::-1] for line in experiments.splitlines())
    commit = of_experiment.get(name) or git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if not commit:
        raise UserError(f"{name}: expected a commit, a branch or an experiment (`dvc exp list --all-commits`)")
    return commit.strip()


def git(*command: str) -> str | None:
    done = subprocess.run(["git", *command], capture_output=True, encoding="utf-8")
    return None if done.returncode else done.stdout


def files_of(commit: str | None, folder: Path) -> Iterator[tuple[str, str]]:
    """(path below ``folder``, text) of each file of a task's metrics, at a commit or (None) in this folder."""
    if commit is None:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and has_result_suffix(path)]
        yield from ((path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8")) for path in paths)
    else:
        listed = git("ls-tree", "-rz", "--name-only", commit, f"{folder.as_posix()}/") or ""
        for name in filter(has_result_suffix, listed.split("\0")):
            yield Path(name).relative_to(folder).as_posix(), git("show", f"{commit}:./{name}") or ""


def has_result_suffix(path: str | Path) -> bool:
    return Path(path).suffix in (".json", ".jsonl", ".csv", ".tsv")


def read_run(name: str, commit: str | None, task: str, configuration: settings.Settings) -> Run | None:
    """A task's results; None if it has no scores of its metric."""
    metric = configuration.task(task).metric
    files = dict(files_of(commit, Path("metrics", task)))
    reports = {report: report_of(files, task, f"{report}.json") for report in REPORTS}
    lock = lock_of(commit)
    stale = [report for report in REPORTS if reports[report] and not is_up_to_date(lock, task, report)]
    reports |= {report: {} for report in stale if report != "scores"}
    if metric not in reports["scores"].get("student", {}):
        return None
    tables = {
        file: list(csv.DictReader(text.splitlines(), delimiter="\t" if file.endswith(".tsv") else ","))
        for file, text in files.items() if file.endswith((".csv", ".tsv"))
    }  # fmt: skip
    if stale:  # it has numbers of each report
        tables.pop("package/score.csv", None)
    return Run(
        name,
        task,
        metric,
        **reports,
        tables=tables,
        resampled=resampled(files, task, "student"),
        int8_resampled=resampled(files, task, "int8") if reports["export"] else {},
        doubts=[
            *(f"metrics/{task}/{report}.json is of an earlier model: run `dvc repro`" for report in stale),
            *doubts(task, metric, reports["scores"], files, configuration.teacher_may_know_test(task)),
        ],
        examples=[] if commit else examples(task),
    )


def report_of(files: dict[str, str], task: str, name: str) -> dict:
    """A JSON file of the task's metrics; empty if there is none. Raises UserError if it is damaged."""
    return parse_json(files.get(name, "{}"), Path("metrics", task, name))


def resampled(files: dict[str, str], task: str, model: str) -> dict:
    """A model's scores on resamples of test; empty if there are none."""
    name = f"resampled/{model}.jsonl"
    lines = (parse_json(line, Path("metrics", task, name)) for line in files.get(name, "").splitlines())
    return next((line for line in lines if line["part"] == "test"), {})


def doubts(task: str, metric: str, scores: dict, files: dict[str, str], may_know_test: bool) -> list[str]:
    """What `evaluate` logs as doubtful."""
    validation = [report_of(files, task, f"{stage}/validation.json").get(metric) for stage in verdicts.STUDENT_STAGES]
    return verdicts.all_doubts(task, scores, may_know_test, validation)


def examples(task: str) -> list[tuple[dict, dict]]:
    """(row, its predictions) of the test rows; empty if they are not here, or the predictions are of other rows."""
    paths = Path("data", task, "prepared", "test.jsonl"), Path("data", task, "predictions.jsonl")
    if not all(path.is_file() for path in paths):
        return []
    test, predictions = (list(rows.read(path)) for path in paths)
    if [rows.digest([row]) for row in test] != [prediction["id"] for prediction in predictions]:
        log(f"{task}: no examples: {paths[1]} is of other rows than {paths[0]}: run `dvc repro`")
        return []
    return list(zip(test, predictions, strict=True))


def settings_that_differ(versions: dict[str, str | None]) -> list[list[str]]:
    """A table of the settings that differ between the runs: a row of names, then setting and values."""
    texts = {name: Path("params.yaml").read_text(encoding="utf-8") if commit is None
             else git("show", f"{commit}:./params.yaml") or "" for name, commit in versions.items()}  # fmt: skip
    yaml = ruamel.yaml.YAML(typ="safe", pure=True)
    flat = {name: dict(flattened(yaml.load(text) or {})) for name, text in texts.items()}
    keys = keys_that_differ(list(flat.values()))
    lines = ([key, *(str(values.get(key, "–")) for values in flat.values())] for key in keys)
    return [["setting", *versions], *lines]


if __name__ == "__main__":
    stage.imports_are_done()
    main()
