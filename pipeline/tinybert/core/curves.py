"""The curves of a training run, as DVCLive has them: a table of steps and values for each.

DVCLive writes them where the stage's plots will be, so that `dvc plots show`, DVC's extension for VS Code and, where it
is used, DVC Studio follow a stage as it trains. What the stage leaves in the end has the same form, and does not tell
whether the run was killed in between.
"""

import time
from pathlib import Path

from transformers import TrainerCallback

from pipeline.tinybert.core import resume
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import write_csv

TABLES = Path("plots", "metrics")
SHOWN_AFTER = 10  # seconds of training, as DVCLive takes one or two to start
Curves = dict[str, list[tuple[int, float]]]


def of_log(log: list[dict], names: dict[str, str]) -> Curves:
    """What a Trainer's ``log`` has under the keys of ``names``, key → name of the curve."""
    found = {name: [(entry["step"], float(entry[key])) for entry in log if key in entry] for key, name in names.items()}
    return {name: points for name, points in found.items() if points}


def write(folder: Path, curves: Curves) -> None:
    """Into a stage's folder of metrics. Without any curve (nothing was trained) an empty one of the loss: as git keeps
    no empty folder.
    """
    (folder / TABLES).mkdir(parents=True)
    for name, points in (curves or {"loss": []}).items():
        write_csv(folder / TABLES / f"{name}.tsv", ["step", name], points, delimiter="\t")


class Live(TrainerCallback):
    """Shows the curves of the running stage once it has trained for a while; where no stage runs, none.

    ``names`` as `of_log` has them.
    """

    def __init__(self, names: dict[str, str]):
        self.names, self.folder, self.live, self.seen = names, resume.metrics_of_stage(), None, 0

    def on_train_begin(self, args, state, control, **rest):
        self.began = time.monotonic()

    def on_log(self, args, state, control, **rest):
        is_due = time.monotonic() - self.began >= SHOWN_AFTER
        if self.folder is not None and state.is_world_process_zero and is_due:
            new, self.seen = state.log_history[self.seen :], len(state.log_history)
            try:
                self.show(new)
            except Exception as error:  # as in a repository without a commit: this must not stop the training
                log(f"curves are not shown while they grow: {error}")
                self.folder = None

    def show(self, log: list[dict]) -> None:
        if self.live is None:
            from dvclive import Live  # slow to import

            self.live = Live(str(self.folder), dvcyaml=False, save_dvc_exp=False)
        for entry in log:
            self.live.step = entry["step"]
            for key in self.names.keys() & entry.keys():
                self.live.log_metric(self.names[key], entry[key])
            self.live.next_step()
