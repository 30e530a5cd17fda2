"""How long a stage takes to start: ``python benchmarks/start.py`` runs each on next to no work and prints a table.

The models and the rows are the tests' tiny ones, so that little is left but starting the interpreter, imports, settings
and loading. Each stage runs in a process of its own, the stages in turn, several times; the table has medians.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from comparison import machine, print_table, run_stage, tiny
from memory import small_world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    stages = (*tiny.COMMON, *tiny.PER_TASK)
    with tempfile.TemporaryDirectory() as folder:
        small_world(Path(folder))  # the first round, which reads the libraries from the disk
        found = [{stage: run_stage(Path(folder), stage) for stage in stages} for _ in range(rounds)]
    print(machine())
    medians = {stage: statistics.median(run[stage][0] for run in found) for stage in stages}
    print_table(["stage", "s"], [[stage, f"{seconds:.1f}"] for stage, seconds in medians.items()])


if __name__ == "__main__":
    main()
