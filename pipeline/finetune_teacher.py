"""Fine-tune the encoder on the task's labels: the teacher, at its best epoch on validation. Or take the user's own."""

from pathlib import Path

from pipeline.tinybert import tasks
from pipeline.tinybert.core import launch, resume, settings
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output
from pipeline.tinybert.data import rows, sources
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.training import fine_tuning, own_teacher

ENCODER = Path("models/pretrained/encoder")


def main(name: str) -> None:
    configuration = settings.load()
    recipe = configuration.of("finetune_teacher", name)
    prepared = Path("data", name, "prepared")
    task = tasks.load(prepared / "task.json", configuration.task(name), name)
    train, validation = (list(rows.read(prepared / f"{split}.jsonl")) for split in ("train", "validation"))

    if recipe.checkpoint:
        model, tokenizer = own_teacher.load(task, recipe.checkpoint, ENCODER, sources.own_teacher_folder(name))
        result = fine_tuning.score_as_it_is(model, fine_tuning.EvaluationSet(task, validation, tokenizer), tokenizer)
    else:
        tokenizer = checkpoints.tokenizer(ENCODER)
        model, result = fine_tuning.fine_tune(
            ENCODER,
            tokenizer,
            task,
            train,
            validation,
            recipe,
            configuration.numerics,
            recipe.learning_rate,
            recipe.dropout,
            weighted=recipe.class_weights,
        )
    trivial = task.score(validation, task.trivial_predictions(train, validation))[task.metric]
    log(f"teacher: {task.metric} {result.score:.4f} on validation, a trivial predictor {trivial:.4f}")
    if result.score <= trivial:
        raise UserError(
            f"the teacher's {task.metric} on validation, {result.score:.4f}, is no better than a trivial predictor's,"
            f" {trivial:.4f}: there is nothing to distil. Look at the labels of tasks.{name}.source, or change"
            " finetune_teacher." + ("checkpoint" if recipe.checkpoint else "learning_rate or epochs")
        )

    with output(Path("models", name, "teacher")) as out:
        checkpoints.save(out, model, tokenizer)
    with output(Path("metrics", name, "finetune_teacher")) as out:
        fine_tuning.write_result(out, task, result)


if __name__ == "__main__":
    launch.run(main, "task", within=resume.stage_folder)
