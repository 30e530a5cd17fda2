"""``python tests/run_stages.py TASK STAGE…``: stages in the working folder, one after the other, started once; as
TINYBERT_PROCESSES says, in several processes.
"""

import sys

from tiny import run_stage

from pipeline.tinybert import processes, scratch


def main(task: str, *stages: str) -> None:
    for stage in stages:
        with scratch.of_stage(stage, [task]):
            run_stage(stage, task)


if __name__ == "__main__":
    processes.run(main, *sys.argv[1:])
