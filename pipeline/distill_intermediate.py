"""The student learns the teacher's embeddings, hidden states and attention scores (of the first of several).

Also writes the teacher's logits of every row of the transfer set (augmented rows, then unlabelled ones) to
`data/<task>/teacher_logits` (with several teachers: their mean).
"""

from contextlib import closing
from pathlib import Path

from pipeline.tinybert import tasks
from pipeline.tinybert.core import curves, launch, resume, settings
from pipeline.tinybert.core.output import output, write_json
from pipeline.tinybert.distillation import teacher_logits, transfer_set
from pipeline.tinybert.distillation.teachers import Teachers
from pipeline.tinybert.models import checkpoints


def main(name: str) -> None:
    configuration = settings.load()
    recipe = configuration.of("distill_intermediate", name)
    task = tasks.load(configuration, name)
    general_student = Path("models", name, "general_student")
    tokenizer = checkpoints.tokenizer(general_student)
    student = task.load_model(general_student, configuration.seed)
    teachers = Teachers(task, name, tokenizer, configuration.numerics)

    with (
        resume.folder("transfer") as folder,
        closing(transfer_set.encode(task, transfer_set.rows(task, name), tokenizer, folder)) as data,
        teachers.logits(data) as logits,
    ):
        learned = teachers.teach(student, data, logits, recipe)
        with output(Path("data", name, "teacher_logits")) as out:
            if launch.rank() == 0:
                teacher_logits.save_mean(logits, out)

    with output(Path("models", name, "intermediate")) as out:
        checkpoints.save(out, student, tokenizer)
    with output(Path("metrics", name, "distill_intermediate")) as out:
        curves.write(out, learned.curves)
        training = {"rows": learned.rows, "steps": learned.steps, "learning_rate": recipe.learning_rate}
        write_json(out / "training.json", training)


if __name__ == "__main__":
    launch.run(main, "task", within=resume.stage_folder)
