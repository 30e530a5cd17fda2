"""Fine-tune the same general student on the labels alone: what distillation has to beat.

The learning rate and the epoch are the best of those tried, on validation.
"""

from pathlib import Path

from pipeline.tinybert import models, processes, rows, scratch, settings, stage, tasks, training


def main(name: str) -> None:
    configuration = settings.load()
    recipe = configuration.of("finetune_student", name)
    prepared = Path("data", name, "prepared")
    task = tasks.load(prepared / "task.json", configuration.task(name), name)
    train, validation = (list(rows.read(prepared / f"{split}.jsonl")) for split in ("train", "validation"))
    general_student = Path("models", name, "general_student")
    tokenizer = models.tokenizer(general_student)

    trials = {}
    best = None
    for rate in recipe.learning_rates:
        trial = training.fine_tune(
            general_student, tokenizer, task, train, validation, recipe, configuration.numerics, rate, recipe.dropout
        )
        trials[f"{rate:g}"] = round(trial[1].score, 4)
        stage.say(f"learning rate {rate:g}: {task.metric} {trial[1].score:.4f} on validation, epoch {trial[1].epoch}")
        if best is None or trial[1].score > best[1].score:
            best, best_rate = trial, rate
    student, result = best

    with stage.output(Path("models", name, "student_alone")) as out:
        models.save(out, student, tokenizer)
    with stage.output(Path("metrics", name, "finetune_student")) as out:
        training.write_result(out, task, result, learning_rate=best_rate, trials=trials)


if __name__ == "__main__":
    processes.run(main, "task", within=scratch.of_stage)
