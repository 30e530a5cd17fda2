"""Fine-tune the same general student on the labels alone: what distillation has to beat.

The learning rate and the epoch are the best of those tried, on validation.
"""

from pathlib import Path

from pipeline.tinybert import tasks
from pipeline.tinybert.core import launch, resume, settings
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output
from pipeline.tinybert.data import rows
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.training import fine_tuning


def main(name: str) -> None:
    configuration = settings.load()
    recipe = configuration.of("finetune_student", name)
    prepared = Path("data", name, "prepared")
    task = tasks.load(prepared / "task.json", configuration.task(name), name)
    train, validation = (list(rows.read(prepared / f"{split}.jsonl")) for split in ("train", "validation"))
    general_student = Path("models", name, "general_student")
    tokenizer = checkpoints.tokenizer(general_student)

    trials = {}
    best = None
    for rate in recipe.learning_rates:
        trial = fine_tuning.fine_tune(
            general_student, tokenizer, task, train, validation, recipe, configuration.numerics, rate, recipe.dropout
        )
        trials[f"{rate:g}"] = round(trial[1].score, 4)
        log(f"learning rate {rate:g}: {task.metric} {trial[1].score:.4f} on validation, epoch {trial[1].epoch}")
        if best is None or trial[1].score > best[1].score:
            best, best_rate = trial, rate
    student, result = best

    with output(Path("models", name, "student_alone")) as out:
        checkpoints.save(out, student, tokenizer)
    with output(Path("metrics", name, "finetune_student")) as out:
        fine_tuning.write_result(out, task, result, learning_rate=best_rate, trials=trials)


if __name__ == "__main__":
    launch.run(main, "task", within=resume.stage_folder)
