"""The curves of a training run: a table of steps and values for each, as DVCLive writes them.

While a stage trains, DVCLive writes them into the folder of the stage's plots, where `dvc plots show`, DVC's extension
for VS Code and DVC Studio can follow them. If the stage fails, the earlier files are restored. The final files have the
same form, whether or not the run was interrupted.
"""

import time
from pathlib import Path
from typing import Any

from pipeline.tinybert.core import resume
from pipeline.tinybert.core.log import log, rank
from pipeline.tinybert.core.output import write_csv

TABLES = Path("plots", "metrics")
SECONDS_BEFORE_SHOWN = 10  # starting DVCLive takes one or two seconds
Curves = dict[str, list[tuple[int, float]]]


def write(folder: Path, curves: Curves) -> None:
    """Write the curves into a stage's folder of metrics. If nothing was trained, an empty curve of the loss is written,
    because git keeps no empty folder.
    """
    (folder / TABLES).mkdir(parents=True)
    for name, points in (curves or {"loss": []}).items():
        write_csv(folder / TABLES / f"{name}.tsv", ["step", name], points, delimiter="\t")


class Live:
    """Shows the curves of the running stage once it has trained for a while. Outside a stage it does nothing."""

    def __init__(self) -> None:
        self.folder: Any = resume.metrics_of_stage() if rank() == 0 else None
        self.began, self.shown = time.monotonic(), 0
        self.live: Any = None  # DVCLive's writer

    def show(self, points: list[dict]) -> None:
        """``points``: all points so far, each with its ``step`` and the values of some curves."""
        if self.folder is None or time.monotonic() - self.began < SECONDS_BEFORE_SHOWN:
            return
        new, self.shown = points[self.shown :], len(points)
        try:
            self._write(new)
        except Exception as error:  # for example in a repository without a commit: training must go on
            log(f"the curves are not shown during training: {error}")
            self.folder = None

    def _write(self, points: list[dict]) -> None:
        if self.live is None:
            from dvclive import Live  # slow to import

            resume.restore_if_the_stage_fails(self.folder)
            self.live = Live(str(self.folder), dvcyaml=False, save_dvc_exp=False)
        for point in points:
            self.live.step = point["step"]
            for name, value in point.items():
                if name != "step":
                    self.live.log_metric(name, value)
            self.live.next_step()
