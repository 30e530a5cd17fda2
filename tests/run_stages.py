"""``python tests/run_stages.py TASK[,TASK…] STAGE…``: stages of each task in the working folder, one after the other,
started once; as TINYBERT_PROCESSES says, in several processes.
"""

import os
import sys
from itertools import product

from tiny import run_stage

from pipeline.tinybert.core import launch, resume
from pipeline.tinybert.training import loop


def main(tasks: str, *stages: str) -> None:
    for task, stage in product(tasks.split(","), stages):
        with resume.stage_folder(stage, [task]):
            run_stage(stage, task)


if __name__ == "__main__":
    if "CHECKPOINT_EACH_STEP" in os.environ:
        loop.SECONDS_BETWEEN_CHECKPOINTS = 0
    launch.run(main, *sys.argv[1:])
