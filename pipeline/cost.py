"""About how many steps and minutes each stage will take here: ``python -m pipeline.cost films``. Not a stage.

`prepare --check` logs the same. The steps are those that the stages will take, except that the lengths of large data
are those of a sample. The minutes are estimates from a few timed steps of small models: use a quiet machine.
"""

from pipeline import prepare
from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.cost.sketch import Sketch
from pipeline.tinybert.data import locations


def main(name: str) -> None:
    configuration = settings.load()
    task, parts, submissions, unlabelled = prepare.load_rows(configuration, name)
    encoder = locations.checkpoint_folder(configuration.encoder.checkpoint, prepare.ENCODER)
    known = prepare.open_own_teacher(configuration, name, task, {**parts, **submissions, "unlabelled": unlabelled})
    Sketch(configuration, name, task, parts, unlabelled, encoder, known).log()


if __name__ == "__main__":
    stage.run(main, "task")
