"""The student learns the teacher's logits, which `distill_intermediate` left: the teacher does not run again.

Or, for comparison, the labels of the rows that have some.
"""

from contextlib import closing
from pathlib import Path

from pipeline.tinybert import tasks
from pipeline.tinybert.core import launch, resume, settings
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output
from pipeline.tinybert.data import rows
from pipeline.tinybert.distillation import stages, transfer_set
from pipeline.tinybert.distillation.teacher_logits import Logits
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.training import fine_tuning


def main(name: str) -> None:
    configuration = settings.load()
    recipe = configuration.of("distill_prediction", name)
    prepared = Path("data", name, "prepared")
    task = tasks.load(prepared / "task.json", configuration.task(name), name)
    intermediate = Path("models", name, "intermediate")
    tokenizer = checkpoints.tokenizer(intermediate)
    validation = fine_tuning.EvaluationSet(task, list(rows.read(prepared / "validation.jsonl")), tokenizer)
    student = task.load_model(intermediate)

    numerics = configuration.numerics
    if recipe.targets == "labels":
        labelled = list(transfer_set.labelled_rows(name, recipe.augmented))
        result = stages.learn_labels(student, tokenizer, task, labelled, validation, recipe, numerics)
    else:
        with (
            resume.folder("transfer") as folder,
            closing(
                transfer_set.encode(task, transfer_set.rows(task, name), tokenizer, folder, recipe.augmented)
            ) as data,
            closing(Logits.load(Path("data", name, "teacher_logits"))) as logits,
        ):
            result = stages.learn_logits(student, tokenizer, task, data, logits, validation, recipe, numerics)
    log(f"student: {task.metric} {result.score:.4f} on validation, epoch {result.epoch}")

    with output(Path("models", name, "student")) as out:
        checkpoints.save(out, student, tokenizer)
    with output(Path("metrics", name, "distill_prediction")) as out:
        fine_tuning.write_result(out, task, result)


if __name__ == "__main__":
    launch.run(main, "task", within=resume.stage_folder)
