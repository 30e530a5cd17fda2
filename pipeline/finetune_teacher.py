"""Fine-tune the encoder on the task's labels: the teacher. Or take the user's own."""

from pathlib import Path

from pipeline.tinybert import tasks
from pipeline.tinybert.core import launch, resume, settings
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output
from pipeline.tinybert.data import locations, rows
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.inference import EvaluationSet
from pipeline.tinybert.training import fine_tuning, own_teacher

ENCODER = Path("models/pretrained/encoder")
STAGE = "finetune_teacher"


def main(name: str) -> None:
    configuration = settings.load()
    recipe, numerics = configuration.of(STAGE, name), configuration.numerics
    prepared = Path("data", name, "prepared")
    task = tasks.load(prepared / "task.json", configuration.task(name), name)
    train, validation_rows = (list(rows.read(prepared / f"{split}.jsonl")) for split in ("train", "validation"))

    if recipe.checkpoint:
        model, tokenizer = own_teacher.load(task, recipe.checkpoint, locations.own_teacher_folder(name))
        teacher = fine_tuning.score_as_it_is(model, EvaluationSet(task, validation_rows, tokenizer))
    else:
        encoder, tokenizer = ENCODER, checkpoints.tokenizer(ENCODER)
        if recipe.encoder:
            encoder, tokenizer = own_teacher.encoder(recipe.encoder)
        validation = EvaluationSet(task, validation_rows, tokenizer)
        weights = task.class_weights(train) if recipe.class_weights else None
        teacher = fine_tuning.fine_tune(encoder, tokenizer, task, train, validation, recipe, numerics, STAGE, weights)
    score = teacher.result.score
    trivial = task.score(validation_rows, task.trivial_predictions(train, validation_rows))[task.metric]
    log(f"teacher: {task.metric} {score:.4f} on validation, a trivial predictor {trivial:.4f}")
    if score <= trivial:
        remedy = "checkpoint" if recipe.checkpoint else "learning_rate and min_steps"
        log(
            f"teacher: DOUBTFUL: {score:.4f} on {len(validation_rows)} rows of validation is no better than a"
            f" trivial predictor's {trivial:.4f}: if so on test too, there is nothing to distil. Check the labels of"
            f" tasks.{name}.source, and try other values of finetune_teacher.{remedy}"
        )

    with output(Path("models", name, "teacher")) as out:
        checkpoints.save(out, teacher.model, tokenizer)
    with output(Path("metrics", name, STAGE)) as out:
        fine_tuning.write_result(out, task, teacher)


if __name__ == "__main__":
    launch.run(main, "task", within=resume.stage_folder)
