"""Review of a branch, in Markdown: ``python .github/review.py origin/main``.

It reports, in this order: whether dvc.lock is up to date with code and parameters (exit code 1 if not), which student
scores fell or are missing, which tasks are no longer run, what distillation gains, and how parameters and metrics
differ from the commit where the branch left origin/main. ``--plots FOLDER`` also writes a page that compares the plots.
Needs dvc and the repository's full history, but no remote and no data.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import ruamel.yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from pipeline.tinybert.evaluation import verdicts

# Metrics that must not fall: the student's scores on all test sets, retention, and the released ONNX models' scores.
WATCHED = {
    "scores.json": re.compile(r"(.+\.)?student\..+|retention"),
    "export.json": re.compile(r"(onnx|int8)\..+"),
}
NOT_SCORES = re.compile(
    r".*\.(low|high|calibration_error|confidence|overconfidence|threshold|megabytes|largest_difference)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="the branch or commit to compare with")
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="write a page that compares the plots to this folder"
    )
    arguments = parser.parse_args()
    sys.stdout.reconfigure(encoding="utf-8")
    base, stale = branch_point(arguments.base), stale_stages()
    difference, run = json.loads(dvc("metrics", "diff", base, "--json") or "{}"), tasks_that_run()
    print("\n\n".join([
        "## DVC review",
        verdict(stale),
        fallen(difference, run),
        section("Distillation", gains_table(base, run), empty="No scores."),
        section("Parameters", dvc("params", "diff", base, "--md")),
        section("Metrics", metrics_table(difference)),
    ]))  # fmt: skip
    if arguments.plots:
        dvc("plots", "diff", base, "--out", str(arguments.plots))
    sys.exit(bool(stale))


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


def tasks_that_run() -> list[str] | None:
    """``run`` of params.yaml; None if there is none."""
    parameters = ruamel.yaml.YAML(typ="safe", pure=True).load(Path("params.yaml").read_text(encoding="utf-8"))
    return parameters.get("run")


def fallen(difference: dict, run: list[str] | None) -> str:
    """The watched scores that are lower than before, undefined or missing; and the tasks that are no longer run."""
    lines, gone = [], set()
    for path, metrics in sorted(difference.items()):
        task, file = Path(path).parent.name, Path(path).name
        worse = [(name, values) for name, values in sorted(metrics.items()) if is_score(file, name) and fell(values)]
        if run is not None and task not in run:
            gone.update([task] if worse else [])
        else:
            lines += [f"- {task}: {name} {values['old']} → {shown(values.get('new'))}" for name, values in worse]
    parts = ["\n".join(["**Worse than before:**", "", *lines]) if lines else "No student score fell."]
    parts += [f"No longer in `run`: {', '.join(sorted(gone))}."] if gone else []
    return "\n\n".join(parts)


def gains_table(base: str, run: list[str] | None) -> str:
    """The gain and the retention of each task in words, at ``base`` and now."""
    lines = []
    for path in sorted(Path("metrics").glob("*/scores.json")):
        if run is None or path.parent.name in run:
            show = ["git", "show", f"{base}:{path.as_posix()}"]
            before = subprocess.run(show, capture_output=True, encoding="utf-8").stdout
            now = path.read_text(encoding="utf-8")
            lines.append([path.parent.name, *(in_words(json.loads(scores or "{}")) for scores in (before, now))])
    return table(["Task", "before", "now"], lines)


def in_words(scores: dict) -> str:
    return f"{verdicts.gain(scores)}; {verdicts.retention(scores)}" if "gain" in scores else "not measured"


def is_score(file: str, name: str) -> bool:
    return file in WATCHED and bool(WATCHED[file].fullmatch(name)) and not NOT_SCORES.fullmatch(name)


def fell(values: dict) -> bool:
    """Whether a number is lower than before, undefined, not finite or missing."""
    old, new = (values.get(when) for when in ("old", "new"))
    if not is_finite(old):
        return False
    return not is_finite(new) or new < old


def is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def shown(value: object) -> str:
    return "undefined or missing" if value is None else str(value)


def metrics_table(difference: dict) -> str:
    lines = [
        [path, name, *(cell(values.get(key)) for key in ("old", "new", "diff"))]
        for path, metrics in sorted(difference.items())
        for name, values in sorted(metrics.items())
    ]
    return table(["Path", "Metric", "before", "now", "change"], lines)


def table(columns: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *lines])


def cell(value: object) -> str:
    return "-" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def section(title: str, table: str, empty: str = "No difference.") -> str:
    rows = table.splitlines()[2:]  # without the header, which an empty table has too
    return f"### {title}\n\n{table if rows else empty}"


if __name__ == "__main__":
    main()
