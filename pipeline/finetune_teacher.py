"""Fine-tune the encoder on the task's labels: the teacher, at its best epoch on validation. Or take the user's own."""

from pathlib import Path

from pipeline.tinybert import models, processes, rows, scratch, settings, stage, tasks, teacher, training

ENCODER = Path("models/pretrained/encoder")


def main(name: str) -> None:
    configuration = settings.load()
    recipe = configuration.of("finetune_teacher", name)
    prepared = Path("data", name, "prepared")
    task = tasks.load(prepared / "task.json", configuration.task(name), name)
    train, validation = (list(rows.read(prepared / f"{split}.jsonl")) for split in ("train", "validation"))

    if recipe.checkpoint:
        model, tokenizer = teacher.load(task, recipe.checkpoint, ENCODER)
        result = training.score_as_it_is(model, training.Scored(task, validation, tokenizer), tokenizer)
    else:
        tokenizer = models.tokenizer(ENCODER)
        model, result = training.fine_tune(
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
    stage.say(f"teacher: {task.metric} {result.score:.4f} on validation, a trivial predictor {trivial:.4f}")
    if result.score <= trivial:
        raise stage.UserError(
            f"the teacher's {task.metric} on validation, {result.score:.4f}, is no better than a trivial predictor's,"
            f" {trivial:.4f}: there is nothing to distil. Look at the labels of tasks.{name}.source, or change"
            " finetune_teacher." + ("checkpoint" if recipe.checkpoint else "learning_rate or epochs")
        )

    with stage.output(Path("models", name, "teacher")) as out:
        models.save(out, model, tokenizer)
    with stage.output(Path("metrics", name, "finetune_teacher")) as out:
        training.write_result(out, task, result)


if __name__ == "__main__":
    processes.run(main, "task", within=scratch.of_stage)
