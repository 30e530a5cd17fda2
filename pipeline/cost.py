"""About how many steps and minutes each stage will take here: ``python -m pipeline.cost films``. Not a stage.

`prepare --check` calls it. The steps are those that the stages will take, except for the sampling of lengths of large
data. The minutes are estimates: a few steps of small models are timed for some seconds, so use a quiet machine.
"""

from pathlib import Path

from pipeline import prepare
from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.cost.sketch import Sketch
from pipeline.tinybert.data import locations
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.tasks import Task


def main(name: str) -> None:
    configuration = settings.load()
    task, parts, _, unlabelled = prepare.read_rows(configuration, name)
    encoder = locations.checkpoint_folder(configuration.encoder.checkpoint, prepare.ENCODER)
    log_costs(configuration, name, task, parts, unlabelled, encoder)


def log_costs(
    configuration: settings.Settings,
    name: str,
    task: Task,
    parts: dict[str, list[Row]],
    unlabelled: list[Row],
    encoder: Path,
) -> None:
    tokenizer = checkpoints.tokenizer(encoder, prepare.ENCODER)
    own = configuration.quietly("finetune_teacher", name).encoders
    teacher = locations.checkpoint_folder(own[0], prepare.TEACHER_ENCODER) if own else None
    Sketch(configuration, name, task, parts, unlabelled, encoder, tokenizer, teacher).log()


if __name__ == "__main__":
    stage.run(main, "task")
