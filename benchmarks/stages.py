"""Time and peak memory of each stage: ``python benchmarks/stages.py`` runs `dvc repro --force` and prints a table.

Each stage logs its time and memory when it ends. `--log FILE` reads the output of an earlier run instead.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

LINE = re.compile(
    r"^(?P<stage>\w+)(?: (?P<task>\S+))?: done in (?P<seconds>\d+) s, peak memory (?P<memory>[\d.]+) GiB$"
)


def run() -> list[str]:
    """Run all stages by force and print their output; return its lines."""
    lines = []
    process = subprocess.Popen(["dvc", "repro", "--force"], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    if process.wait():
        sys.exit("`dvc repro --force` failed: see above")
    return lines


def table(lines: list[str]) -> str:
    rows = [match.groupdict() for line in lines if (match := LINE.match(line.strip()))]
    total, most = sum(int(row["seconds"]) for row in rows), max(float(row["memory"]) for row in rows)
    body = [
        f"| `{row['stage']}` | {int(row['seconds']) // 60}:{int(row['seconds']) % 60:02d} | {row['memory']} |"
        for row in rows
    ]
    head = ["| stage | minutes | peak memory, GiB |", "|---|---|---|"]
    return "\n".join([*head, *body, f"| all | {total // 60}:{total % 60:02d} | {most:.2f} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, help="read the saved output of `dvc repro --force` instead of running it")
    log = parser.parse_args().log
    lines = log.read_text().splitlines() if log else run()
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(table(lines))


if __name__ == "__main__":
    main()
