"""How long a stage takes to start: ``python benchmarks/start.py`` runs each on next to no work and prints a table.

The models and the rows are the tests' tiny ones, so that little is left but starting the interpreter, imports, settings
and loading. Each stage runs in a process of its own, the stages in turn, several times; the table has medians.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from comparison import machine, print_table
from tiny_stages import STAGES, finished_world, run_stage

LITTLE_WORK = {
    "encoder.masked_language_model.steps": 1,
    "finetune_teacher.epochs": 2,
    "augment.variants": 0,
    "distill_prediction.epochs": 1,
    "finetune_student.epochs": 1,
    "finetune_student.learning_rates": [2.0e-3],
    "benchmark.runs": 1,
    "benchmark.batch_sizes": [1],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        finished_world(Path(folder), **LITTLE_WORK)  # the first round, which reads the libraries from the disk
        found = [{stage: run_stage(Path(folder), stage) for stage in STAGES} for _ in range(rounds)]
    print(machine())
    medians = {stage: statistics.median(run[stage][0] for run in found) for stage in STAGES}
    print_table(["stage", "s"], [[stage, f"{seconds:.1f}"] for stage, seconds in medians.items()])


if __name__ == "__main__":
    main()
