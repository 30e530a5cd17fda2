"""Make the general TinyBERT in the task's student shape: from a checkpoint, layers of the encoder, or distillation."""

from pathlib import Path

from pipeline.tinybert import tasks
from pipeline.tinybert.core import curves, launch, resume, settings
from pipeline.tinybert.core.output import output
from pipeline.tinybert.data import rows
from pipeline.tinybert.distillation import general_student
from pipeline.tinybert.models import checkpoints


def main(name: str) -> None:
    configuration = settings.load()
    wanted = configuration.of("general_student", name)

    learned = {}
    if wanted.start == "checkpoint":
        student = general_student.from_checkpoint(wanted)
    elif wanted.start == "layers":
        sample = rows.read(Path("data", name, "narrowing.jsonl"))
        student = general_student.from_layers(wanted, tasks.load(configuration, name), sample)
    else:
        student, result = general_student.from_distillation(wanted, configuration.numerics)
        learned = result.curves

    with output(Path("models", name, "general_student")) as out:
        checkpoints.save(out, student, checkpoints.tokenizer(general_student.ENCODER))
    with output(Path("metrics", name, "general_student")) as out:
        curves.write(out, learned)


if __name__ == "__main__":
    launch.run(main, "task", within=resume.stage_folder)
