"""The student learns the teacher's logits, which `distill_intermediate` left: the teacher does not run again.

Or, for comparison, the labels of the rows that have some.
"""

from contextlib import closing
from pathlib import Path

from pipeline.tinybert import distillation, models, processes, rows, scratch, settings, stage, tasks, training, transfer
from pipeline.tinybert.logits import Logits


def main(name: str) -> None:
    configuration = settings.load()
    recipe = configuration.of("distill_prediction", name)
    prepared = Path("data", name, "prepared")
    task = tasks.load(prepared / "task.json", configuration.task(name), name)
    intermediate = Path("models", name, "intermediate")
    tokenizer = models.tokenizer(intermediate)
    validation = training.Scored(task, list(rows.read(prepared / "validation.jsonl")), tokenizer)
    student = task.load_model(intermediate)

    numerics = configuration.numerics
    if recipe.targets == "labels":
        labelled = list(transfer.labelled_rows(name, recipe.augmented))
        result = distillation.learn_labels(student, tokenizer, task, labelled, validation, recipe, numerics)
    else:
        with (
            scratch.folder("transfer") as folder,
            closing(transfer.encode(task, transfer.rows(task, name), tokenizer, folder, recipe.augmented)) as data,
            closing(Logits.load(Path("data", name, "teacher_logits"))) as logits,
        ):
            result = distillation.learn_logits(student, tokenizer, task, data, logits, validation, recipe, numerics)
    stage.say(f"student: {task.metric} {result.score:.4f} on validation, epoch {result.epoch}")

    with stage.output(Path("models", name, "student")) as out:
        models.save(out, student, tokenizer)
    with stage.output(Path("metrics", name, "distill_prediction")) as out:
        training.write_result(out, task, result)


if __name__ == "__main__":
    processes.run(main, "task", within=scratch.of_stage)
