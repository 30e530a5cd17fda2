"""The student learns the teacher's embeddings, hidden states and attention scores; the teacher's logits fall out.

Every row of the transfer set (augmented rows, then unlabelled ones) gets its logits in `data/<task>/teacher_logits`.
"""

from contextlib import closing
from pathlib import Path

from pipeline.tinybert import curves, distillation, models, processes, scratch, settings, stage, tasks, transfer
from pipeline.tinybert.logits import Logits


def main(name: str) -> None:
    configuration = settings.load()
    recipe = configuration.of("distill_intermediate", name)
    task = tasks.load(Path("data", name, "prepared", "task.json"), configuration.task(name), name)
    tokenizer, other = (models.tokenizer(Path("models", name, which)) for which in ("general_student", "teacher"))
    models.check_vocabulary(tokenizer, other, "general_student")
    tokenizer.model_max_length = min(tokenizer.model_max_length, other.model_max_length)
    teacher = task.load_model(Path("models", name, "teacher"))
    student = transfer.student_with_head(task, name, configuration.seed)
    learned = {}
    with (
        scratch.folder("transfer") as folder,
        closing(transfer.encode(task, transfer.rows(task, name), tokenizer, folder)) as data,
        closing(Logits.kept(folder, data.counts(), task.classes)) as logits,
    ):
        if recipe.epochs:
            part = transfer.sample(data, recipe.max_rows, configuration.seed)
            result = distillation.imitate(
                student.base_model,
                teacher,
                part,
                tokenizer,
                recipe,
                configuration.numerics,
                "distill_intermediate",
                distillation.KeepLogits(task, logits),
            )
            learned = result.curves
        distillation.fill_logits(teacher, task, data, tokenizer, logits, configuration.numerics)
        with stage.output(Path("data", name, "teacher_logits")) as out:
            if processes.number() == 0:
                logits.save(out)

    with stage.output(Path("models", name, "intermediate")) as out:
        models.save(out, student, tokenizer)
    with stage.output(Path("metrics", name, "distill_intermediate")) as out:
        curves.write(out, learned)


if __name__ == "__main__":
    processes.run(main, "task", within=scratch.of_stage)
