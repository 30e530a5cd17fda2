"""What a reviewer wants to see of a branch: ``python .github/review.py origin/main`` prints it in Markdown.

First whether dvc.lock is up to date with code and parameters (exit code 1 where it is not), then how parameters and
metrics differ from where the branch left the other one, the scores that fell before all others. ``--plots FOLDER`` puts
a page with the plots of both there. Needs dvc and the repository's whole history; no remote, no data.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

KEPT = {  # what a change is to keep: of the student's scores, on further tests too, and of those of what is shipped
    "scores.json": re.compile(r"(.+\.)?student\..+|retention"),
    "export.json": re.compile(r"(onnx|int8)\..+"),
}
NO_SCORES = re.compile(r".*\.(low|high|calibration_error|threshold|megabytes|largest_difference)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="the branch or commit to compare with")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="where the page with the plots goes")
    given = parser.parse_args()
    base, stale = parting(given.base), stages_to_run()
    difference = json.loads(dvc("metrics", "diff", base, "--json") or "{}")
    print("\n\n".join([
        "## DVC review",
        verdict(stale),
        fallen(difference),
        section("Parameters", dvc("params", "diff", base, "--md")),
        section("Metrics", dvc("metrics", "diff", base, "--md")),
    ]))  # fmt: skip
    if given.plots:
        dvc("plots", "diff", base, "--out", str(given.plots))
    sys.exit(bool(stale))


def parting(base: str) -> str:
    """The commit at which this branch left ``base``."""
    found = subprocess.run(["git", "merge-base", base, "HEAD"], capture_output=True, text=True)
    if found.returncode or not found.stdout:
        shallow = subprocess.check_output(["git", "rev-parse", "--is-shallow-repository"], text=True).strip() == "true"
        advice = (
            "this clone is shallow: run `git fetch --unshallow`, in a workflow check out with `fetch-depth: 0`"
            if shallow
            else "is it a branch or commit of this repository, and fetched?"
        )
        sys.exit(f"review: nothing to compare with: no common commit of {base} and HEAD: {advice}")
    return found.stdout.strip()


def stages_to_run() -> list[str]:
    """Those of which code, parameters or inputs differ from what dvc.lock says, whether their data are here or not."""
    said = dvc("repro", "--dry", "--allow-missing")
    return [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage '")]


def dvc(*command: str) -> str:
    ran = subprocess.run([sys.executable, "-m", "dvc", *command], capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"review: dvc {' '.join(command)} failed: {ran.stderr.strip() or ran.stdout.strip()}")
    return ran.stdout.strip()


def verdict(stale: list[str]) -> str:
    if not stale:
        return "dvc.lock is up to date with code and parameters."
    names = ", ".join(f"`{stage}`" for stage in stale)
    return f"**dvc.lock is stale**: {names} would run. Run `dvc repro`, and commit dvc.lock with metrics and plots."


def fallen(difference: dict) -> str:
    """The scores of students that are lower than before."""
    lines = [
        f"- {Path(path).parent.name}: {name} {values['old']} → {values['new']}"
        for path, metrics in sorted(difference.items())
        for name, values in metrics.items()
        if is_score(Path(path).name, name) and fell(values)
    ]
    return "\n".join(["**Worse than before:**", "", *lines]) if lines else "No score of a student fell."


def is_score(file: str, name: str) -> bool:
    return file in KEPT and bool(KEPT[file].fullmatch(name)) and not NO_SCORES.fullmatch(name)


def fell(values: dict) -> bool:
    numbers = [values.get(when) for when in ("old", "new")]
    known = [isinstance(number, int | float) for number in numbers]
    return known[0] and (not known[1] or numbers[1] < numbers[0])


def section(title: str, table: str) -> str:
    rows = table.splitlines()[2:]  # after its head, which is there without rows too
    return f"### {title}\n\n{table if rows else 'No difference.'}"


if __name__ == "__main__":
    main()
