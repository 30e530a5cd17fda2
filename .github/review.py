"""Review of a branch, in Markdown: ``python .github/review.py origin/main``.

It reports, in this order: whether dvc.lock is up to date with code and parameters (exit code 1 if not), which student
scores fell, and how parameters and metrics differ from the commit where the branch left origin/main. ``--plots FOLDER``
also writes a page that compares the plots. Needs dvc and the repository's full history, but no remote and no data.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

# Metrics that must not fall: the student's scores on all test sets, retention, and the released ONNX models' scores.
WATCHED = {
    "scores.json": re.compile(r"(.+\.)?student\..+|retention"),
    "export.json": re.compile(r"(onnx|int8)\..+"),
}
NOT_SCORES = re.compile(r".*\.(low|high|calibration_error|threshold|megabytes|largest_difference)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="the branch or commit to compare with")
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="write a page that compares the plots to this folder"
    )
    arguments = parser.parse_args()
    base, stale = branch_point(arguments.base), stale_stages()
    difference = json.loads(dvc("metrics", "diff", base, "--json") or "{}")
    print("\n\n".join([
        "## DVC review",
        verdict(stale),
        fallen(difference),
        section("Parameters", dvc("params", "diff", base, "--md")),
        section("Metrics", dvc("metrics", "diff", base, "--md")),
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


def stale_stages() -> list[str]:
    """Stages whose code, parameters or inputs differ from dvc.lock. Their data need not be present."""
    printed = dvc("repro", "--dry", "--allow-missing")
    return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage '")]


def dvc(*command: str) -> str:
    process = subprocess.run([sys.executable, "-m", "dvc", *command], capture_output=True, text=True)
    if process.returncode:
        sys.exit(f"review: dvc {' '.join(command)} failed: {process.stderr.strip() or process.stdout.strip()}")
    return process.stdout.strip()


def verdict(stale: list[str]) -> str:
    if not stale:
        return "dvc.lock is up to date with code and parameters."
    names = ", ".join(f"`{stage}`" for stage in stale)
    return f"**dvc.lock is stale**: {names} would run. Run `dvc repro`, then commit dvc.lock, metrics and plots."


def fallen(difference: dict) -> str:
    """The watched scores that are lower than before."""
    lines = [
        f"- {Path(path).parent.name}: {name} {values['old']} → {values['new']}"
        for path, metrics in sorted(difference.items())
        for name, values in metrics.items()
        if is_score(Path(path).name, name) and fell(values)
    ]
    return "\n".join(["**Worse than before:**", "", *lines]) if lines else "No student score fell."


def is_score(file: str, name: str) -> bool:
    return file in WATCHED and bool(WATCHED[file].fullmatch(name)) and not NOT_SCORES.fullmatch(name)


def fell(values: dict) -> bool:
    """Whether a number is lower than before, or became undefined."""
    old, new = (values.get(when) for when in ("old", "new"))
    if not isinstance(old, int | float):
        return False
    return not isinstance(new, int | float) or new < old


def section(title: str, table: str) -> str:
    rows = table.splitlines()[2:]  # without the header, which dvc prints for an empty table too
    return f"### {title}\n\n{table if rows else 'No difference.'}"


if __name__ == "__main__":
    main()
