"""Start-up time of each stage: ``python benchmarks/start.py`` runs each with almost no work and prints a table.

Models and rows are the tests' tiny ones, so that the time is mostly that of the interpreter, imports, settings and
loading. Each stage runs in its own process, all stages in turn, several times; the table shows medians.
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
    "finetune_student.learning_rate": [2.0e-3],
    "benchmark.seconds": 0,
    "benchmark.batch_sizes": [1],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        finished_world(Path(folder), **LITTLE_WORK)  # not counted: it reads the libraries from the disk
        runs = [{stage: run_stage(Path(folder), stage) for stage in STAGES} for _ in range(rounds)]
    print(machine())
    medians = {stage: statistics.median(run[stage][0] for run in runs) for stage in STAGES}
    print_table(["stage", "s"], [[stage, f"{seconds:.1f}"] for stage, seconds in medians.items()])


if __name__ == "__main__":
    main()
