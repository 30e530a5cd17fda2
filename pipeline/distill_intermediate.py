"""The student learns the teacher's embeddings, hidden states and attention scores; the teacher's logits fall out.

Every row of the transfer set (augmented rows, then unlabelled ones) gets its logits in `data/<task>/teacher_logits`.
"""

from contextlib import closing
from pathlib import Path

from pipeline.tinybert import tasks
from pipeline.tinybert.core import curves, launch, resume, settings
from pipeline.tinybert.core.output import output
from pipeline.tinybert.distillation import stages, transfer_set
from pipeline.tinybert.distillation.teacher_logits import Logits
from pipeline.tinybert.models import checkpoints


def main(name: str) -> None:
    configuration = settings.load()
    recipe = configuration.of("distill_intermediate", name)
    task = tasks.load(Path("data", name, "prepared", "task.json"), configuration.task(name), name)
    tokenizer, other = (checkpoints.tokenizer(Path("models", name, which)) for which in ("general_student", "teacher"))
    checkpoints.check_vocabulary(tokenizer, other, "general_student")
    tokenizer.model_max_length = min(tokenizer.model_max_length, other.model_max_length)
    teacher = task.load_model(Path("models", name, "teacher"))
    student = transfer_set.student_with_head(task, name, configuration.seed)
    learned = {}
    with (
        resume.folder("transfer") as folder,
        closing(transfer_set.encode(task, transfer_set.rows(task, name), tokenizer, folder)) as data,
        closing(Logits.kept(folder, data.counts(), task.classes)) as logits,
    ):
        if recipe.epochs:
            part = transfer_set.sample(data, recipe.max_rows, configuration.seed)
            result = stages.imitate(
                student.base_model,
                teacher,
                part,
                tokenizer,
                recipe,
                configuration.numerics,
                "distill_intermediate",
                stages.KeepLogits(task, logits),
            )
            learned = result.curves
        stages.fill_logits(teacher, task, data, tokenizer, logits, configuration.numerics)
        with output(Path("data", name, "teacher_logits")) as out:
            if launch.rank() == 0:
                logits.save(out)

    with output(Path("models", name, "intermediate")) as out:
        checkpoints.save(out, student, tokenizer)
    with output(Path("metrics", name, "distill_intermediate")) as out:
        curves.write(out, learned)


if __name__ == "__main__":
    launch.run(main, "task", within=resume.stage_folder)
