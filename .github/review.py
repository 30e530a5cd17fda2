"""Review of a branch, in Markdown: ``python .github/review.py origin/main``.

It compares the working folder with the commit where the branch left origin/main: for each task a row with the student's
and the int8 model's score, gain, retention, agreement, latency and size, and a verdict; then the settings that differ;
then, folded, gains in words, times and metrics. Scores are compared by a paired bootstrap on the same test rows.

The exit code is 1 if dvc.lock is not up to date with code and parameters, if a model is worse by more than
``review.tolerance`` in params.yaml, or if its scores cannot be compared. Times never fail.

``--plots FOLDER`` also writes a page that compares the plots. Needs dvc and the repository's full history, but no
remote and no data: what it compares is in git.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import ruamel.yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.markdown import table
from pipeline.tinybert.core.output import parse_json
from pipeline.tinybert.evaluation import comparison, verdicts
from pipeline.tinybert.evaluation.comparison import Comparison

MODELS = {"student": "scores.json", "int8": "export.json"}  # a model to compare → the report with its scores
SERVED = ("student", "int8")  # the file whose latency and size are in the table
COLUMNS = ["Task", "Student", "int8", "Gain", "Retention", "Agreement", "int8, ms", "int8, MB", "Verdict"]
MOST_ROWS = 40  # of a table of settings or metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="the branch or commit to compare with")
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="write a page that compares the plots to this folder"
    )
    arguments = parser.parse_args()
    sys.stdout.reconfigure(encoding="utf-8")
    base, stale = branch_point(arguments.base), stale_stages()
    parameters = read_parameters()
    tolerance = (parameters.get("review") or {}).get("tolerance")
    if not is_finite(tolerance):
        sys.exit("review: params.yaml: expected a number as review.tolerance (0.005: half a point)")
    tasks, gone = tasks_to_compare(base, parameters.get("run"))
    compared = {task: compare(base, task) for task in tasks}
    failing = [line for task in tasks for line in failures(task, compared[task], tolerance)]
    print("\n\n".join([
        "## DVC review",
        verdict(stale),
        *([f"No longer in `run`: {', '.join(gone)}."] if gone else []),
        "\n".join(["**Does not pass:**", "", *failing]) if failing else passes(tolerance),
        table(COLUMNS, [row(base, task, compared[task]) for task in tasks]) if tasks else "No scores.",
        NOTE,
        section("Settings that differ", settings_table(json.loads(dvc("params", "diff", base, "--json") or "{}"))),
        folded("Gain and retention in words", gains_table(base, tasks)),
        folded("Times", times_table(base, tasks)),
        folded("Metrics that differ", metrics_table(json.loads(dvc("metrics", "diff", base, "--json") or "{}"))),
    ]))  # fmt: skip
    if arguments.plots:
        dvc("plots", "diff", base, "--out", str(arguments.plots))
    sys.exit(bool(stale or failing))


NOTE = (
    "Before → now, on test, in percent or points. In brackets: the difference and its 95 % interval (paired bootstrap);"
    " for times, the ratio and its spread. The interval covers the choice of test rows, not that of the seed."
)


def branch_point(base: str) -> str:
    """The commit at which this branch left ``base``."""
    merge_base = subprocess.run(["git", "merge-base", base, "HEAD"], capture_output=True, text=True)
    if merge_base.returncode or not merge_base.stdout:
        shallow = subprocess.check_output(["git", "rev-parse", "--is-shallow-repository"], text=True).strip() == "true"
        advice = (
            "this clone is shallow: run `git fetch --unshallow`; in a workflow, check out with `fetch-depth: 0`"
            if shallow
            else "expected a branch or commit of this repository that has been fetched"
        )
        sys.exit(f"review: cannot compare: {base} and HEAD have no common commit: {advice}")
    return merge_base.stdout.strip()


def stale_stages() -> dict[str, list[str]]:
    """Stage → what of it differs from dvc.lock: code, parameters, the command, inputs, or outputs that git tracks.

    Data that are not here do not count. (`dvc repro --dry --allow-missing` fails on them as soon as a stage is stale.)
    """
    changes: dict[str, dict[str, str]] = {}
    for stage, parts in json.loads(dvc("status", "--json") or "{}").items():
        found = changes.setdefault(stage, {})
        for part in parts:
            paths = next(iter(part.values())) if isinstance(part, dict) else {part: part}  # a text: "changed command"
            for path, state in paths.items():
                keys = ", ".join(state) if isinstance(state, dict) else ""  # of params.yaml
                found[f"{path} ({keys})" if keys else path] = "modified" if keys else state
    elsewhere = only_in_dvc({path for found in changes.values() for path in found})
    differ = {
        stage: [path for path, state in found.items() if state != "not in cache" and path not in elsewhere]
        for stage, found in changes.items()
        if not stage.endswith(".dvc")
    }
    return {stage: paths for stage, paths in differ.items() if paths}


def only_in_dvc(paths: set[str]) -> set[str]:
    """The paths that are not here because DVC keeps them, and folders in which such files are missing."""
    missing = (path for path in paths if not Path(path).exists())
    ignored = git("check-ignore", "-z", "--stdin", stdin="\0".join(missing))  # git ignores what DVC keeps
    incomplete = {str(parent) for name in added_and_absent() for parent in Path(name).parents}
    return {*ignored, *(paths & incomplete)}


def added_and_absent() -> list[str]:
    """The files and folders of `dvc add` that are not here."""
    added = (name.removesuffix(".dvc") for name in git("ls-files", "-z", "*.dvc"))
    return [name for name in added if not Path(name).exists()]


def git(*command: str, stdin: str = "") -> list[str]:
    """The names that a git command prints with ``-z``."""
    process = subprocess.run(["git", *command], input=stdin, capture_output=True, encoding="utf-8")
    return process.stdout.split("\0")[:-1]


def dvc(*command: str) -> str:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    process = subprocess.run(
        [sys.executable, "-m", "dvc", *command], capture_output=True, encoding="utf-8", env=environment
    )
    if process.returncode:
        sys.exit(f"review: dvc {' '.join(command)} failed: {process.stderr.strip() or process.stdout.strip()}")
    return process.stdout.strip()


def verdict(stale: dict[str, list[str]]) -> str:
    if not stale:
        absent = added_and_absent()
        unknown = f" Not compared, because the files are not here: {', '.join(absent)}." if absent else ""
        return f"dvc.lock is up to date with code and parameters.{unknown}"
    names = ", ".join(f"`{stage}`" for stage in stale)
    changes = (f"- `{stage}`: {', '.join(paths)}" for stage, paths in stale.items())
    return "\n".join([
        f"**dvc.lock is stale**: {names} would run. Run `dvc repro`, then commit dvc.lock, metrics and plots. Changed:",
        "",
        *changes,
    ])  # fmt: skip


def read_parameters() -> dict:
    return ruamel.yaml.YAML(typ="safe", pure=True).load(Path("params.yaml").read_text(encoding="utf-8"))


def tasks_to_compare(base: str, run: list[str] | None) -> tuple[list[str], list[str]]:
    """The tasks with scores, now or at ``base``, that `run` names (without it: all); and those that it leaves out."""
    here = {path.parent.name for path in Path("metrics").glob("*/scores.json")}
    there = {Path(name).parent.name for name in git("ls-tree", "-rz", "--name-only", base, "metrics/")
             if Path(name).name == "scores.json"}  # fmt: skip
    tasks = sorted(here | there)
    return [task for task in tasks if run is None or task in run], sorted(there - set(tasks if run is None else run))


def at_base(base: str, path: Path) -> str:
    """The text of a file at a commit; empty if it is not there."""
    if not git("ls-tree", "-z", "--name-only", base, path.as_posix()):
        return ""
    show = subprocess.run(["git", "show", f"{base}:./{path.as_posix()}"], capture_output=True, encoding="utf-8")
    if show.returncode:
        sys.exit(f"review: cannot compare: {path} at {base} cannot be read: {show.stderr.strip()}")
    return show.stdout


def both(base: str, task: str, file: str) -> tuple[str, str]:
    """The text of a file of the task's metrics at ``base`` and now; empty where it is missing."""
    path = Path("metrics", task, file)
    return at_base(base, path), path.read_text(encoding="utf-8") if path.is_file() else ""


def reports(base: str, task: str, file: str) -> tuple[dict, dict]:
    """The same as JSON."""
    before, now = (parsed(text or "{}", Path("metrics", task, file)) for text in both(base, task, file))
    return before, now


def parsed(text: str, path: Path) -> dict:
    try:
        return parse_json(text, path)
    except UserError as error:
        sys.exit(f"review: cannot compare: {error}")


def compare(base: str, task: str) -> dict[str, Comparison]:
    """Model, and test set if it is not `test` → how its score has changed."""
    found = {}
    for model, report in MODELS.items():
        had_scores, has_scores = (bool(text) for text in both(base, task, report))
        if not had_scores:
            found |= {model: Comparison(comparison.NEW)} if has_scores else {}
            continue
        path = Path("metrics", task, "resampled", f"{model}.jsonl")
        before, now = (by_test_set(text, path) for text in both(base, task, f"resampled/{path.name}"))
        for part in dict.fromkeys(["test", *before]):
            key = model if part == "test" else f"{model} on {part}"
            found[key] = compare_test_set(path.as_posix(), before.get(part), now.get(part))
    return found


def by_test_set(text: str, path: Path) -> dict[str, dict]:
    return {line["part"]: line for line in (parsed(line, path) for line in text.splitlines())}


def compare_test_set(path: str, before: dict | None, now: dict | None) -> Comparison:
    if now is None:
        return comparison.impossible(f"no scores in {path}: run `dvc repro`, and commit it")
    if before is None:
        return comparison.impossible(
            f"the commit compared with has no scores in {path}: run `dvc repro` there, and commit it first"
        )
    if not all(math.isfinite(value) for value in now["resampled"]):
        return comparison.impossible(f"{path}: scores that are not finite: a model is damaged")
    return comparison.compare_scores(before, now)


def passes(tolerance: float) -> str:
    return f"No student or int8 model is worse by more than {100 * tolerance:g} points (`review.tolerance`)."


def failures(task: str, compared: dict[str, Comparison], tolerance: float) -> list[str]:
    return [
        f"- {task}: {model} {in_words(found)}"
        + (f"; the tolerance is {100 * tolerance:g} (`review.tolerance`)" if found.verdict == comparison.WORSE else "")
        for model, found in compared.items()
        if found.fails(tolerance)
    ]


def in_words(found: Comparison) -> str:
    if found.verdict == comparison.IMPOSSIBLE:
        return f"{found.verdict}: {found.reason}"
    return f"is {found.verdict}: {difference(found)} points"


def difference(found: Comparison) -> str:
    return f"{100 * found.value:+z.1f}, {100 * found.low:z.1f} to {100 * found.high:z.1f}"


def row(base: str, task: str, compared: dict[str, Comparison]) -> list[str]:
    """The task's row of the table; see ``COLUMNS``."""
    scores, export, benchmark = (reports(base, task, f"{name}.json") for name in ("scores", "export", "benchmark"))
    resampled = "resampled/student.jsonl"
    metric = next((line["metric"] for text in both(base, task, resampled)[::-1]
                   for line in by_test_set(text, Path("metrics", task, resampled)).values()), None)  # fmt: skip
    student, int8 = (
        change(*(percent(report.get(model, {}).get(metric)) for report in of_both), compared.get(model))
        for model, of_both in (("student", scores), ("int8", export))
    )
    gain = change(*(percent(report.get("gain", {}).get("value"), "+") for report in scores))
    retention, agreement = (
        change(*(percent(report.get(key)) for report in scores)) for key in ("retention", "agreement")
    )
    served = [report.get(SERVED[0], {}).get(SERVED[1], {}) for report in benchmark]
    sizes = change(*(number(form.get("megabytes")) for form in served))
    verdict_of_all = "; ".join(f"{model}: {found.verdict}" for model, found in compared.items())
    title = f"{task} ({metric})" if metric else task
    times = time_change(*served) + elsewhere(*benchmark)
    return [title, student, int8, gain, retention, agreement, times, sizes, verdict_of_all]


def number(value: object, sign: str = "", digits: str = ".4g") -> str:
    return format(value, f"{sign}z{digits}") if is_finite(value) else "–"


def percent(value: object, sign: str = "") -> str:
    return number(100 * value, sign, ".1f") if is_finite(value) else "–"


def change(before: str, now: str, found: Comparison | None = None) -> str:
    shown = now if before == now else f"{before} → {now}"
    compared = found is not None and found.verdict not in (comparison.NEW, comparison.IMPOSSIBLE)
    return f"{shown} ({difference(found)})" if compared and before != now and "–" not in (before, now) else shown


def time_change(before: dict, now: dict) -> str:
    shown = change(number(before.get("p50")), number(now.get("p50")))
    if not (before and now):
        return shown
    ratio, low, high = comparison.compare_times(before, now)
    return f"{shown} (×{ratio:.2f}, {low:.2f} to {high:.2f})"


def elsewhere(before: dict, now: dict) -> str:
    """A remark if two reports have times of different machines or libraries, which say little about the model."""
    old, new = (report.get("machine", {}) for report in (before, now))
    named = old.keys() & new.keys() - {"threads"}  # all times are of one thread
    differ = any(old[name] != new[name] for name in named)
    return " on another machine or with other libraries" if differ else ""


def times_table(base: str, tasks: list[str]) -> str:
    """The latency of one text on one thread, of each model in each format."""
    lines = []
    for task in tasks:
        before, now = reports(base, task, "benchmark.json")
        for model in ("teacher", "student"):
            for form, found in now.get(model, {}).items():
                if isinstance(found, dict):
                    old = before.get(model, {}).get(form, {})
                    lines.append([task, f"{model}, {form}", f"{time_change(old, found)}{elsewhere(before, now)}"])
    return table(["Task", "Model", "ms"], lines)


def gains_table(base: str, tasks: list[str]) -> str:
    """The gain and the retention of each task in words, at ``base`` and now."""
    lines = [[task, *map(gain_in_words, reports(base, task, "scores.json"))] for task in tasks]
    return table(["Task", "before", "now"], lines)


def gain_in_words(scores: dict) -> str:
    return f"{verdicts.gain(scores)}; {verdicts.retention(scores)}" if "gain" in scores else "not measured"


def is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def metrics_table(difference: dict) -> str:
    """The metrics that differ, without times and machines."""
    lines = [
        [path, name, *(cell(values.get(key)) for key in ("old", "new", "diff"))]
        for path, metrics in sorted(difference.items()) if Path(path).name != "benchmark.json"
        for name, values in sorted(metrics.items())
    ]  # fmt: skip
    return table(["Path", "Metric", "before", "now", "change"], lines)


def settings_table(difference: dict) -> str:
    lines = [
        [path, name, *(str(values.get(key, "-")) for key in ("old", "new"))]
        for path, settings in sorted(difference.items())
        for name, values in sorted(settings.items())
    ]
    return table(["Path", "Setting", "before", "now"], lines)


def cell(value: object) -> str:
    return "-" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def section(title: str, table: str) -> str:
    return f"### {title}\n\n{shortened(table)}"


def folded(title: str, table: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{shortened(table)}\n\n</details>"


def shortened(table: str) -> str:
    lines = table.splitlines()
    if len(lines) <= 2:  # the header, which an empty table has too
        return "No difference."
    left = len(lines) - 2 - MOST_ROWS
    more = f"\n\nAnd {left} more: run `dvc params diff` or `dvc metrics diff`." if left > 0 else ""
    return "\n".join(lines[: 2 + MOST_ROWS]) + more


if __name__ == "__main__":
    main()
