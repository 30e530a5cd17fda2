"""Fine-tune the general student on labels, without distillation: the baseline that distillation has to beat.

Several learning rates are tried. The rate and the epoch with the best score on validation are kept.
"""

from pathlib import Path
from typing import Any

from pipeline.tinybert import tasks
from pipeline.tinybert.core import launch, resume, settings
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output
from pipeline.tinybert.data import rows
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.inference import EvaluationSet
from pipeline.tinybert.training import fine_tuning

STAGE = "finetune_student"


def main(name: str) -> None:
    configuration = settings.load()
    recipe, numerics = configuration.of(STAGE, name), configuration.numerics
    prepared = Path("data", name, "prepared")
    task = tasks.load(prepared / "task.json", configuration.task(name), name)
    train, validation_rows = (list(rows.read(prepared / f"{split}.jsonl")) for split in ("train", "validation"))
    general_student = Path("models", name, "general_student")
    tokenizer = checkpoints.tokenizer(general_student)
    validation = EvaluationSet(task, validation_rows, tokenizer)

    trials = {}
    best: Any = None
    for rate in recipe.learning_rates:
        model, result = fine_tuning.fine_tune(
            general_student, tokenizer, task, train, validation, recipe, numerics, STAGE, rate
        )
        trials[f"{rate:g}"] = round(result.score, 4)
        log(f"learning rate {rate:g}: {task.metric} {result.score:.4f} on validation, epoch {result.epoch}")
        if best is None or result.score > best[1].score:
            best = model, result, rate
    student, result, best_rate = best

    with output(Path("models", name, "student_alone")) as out:
        checkpoints.save(out, student, tokenizer)
    with output(Path("metrics", name, STAGE)) as out:
        fine_tuning.write_result(out, task, result, learning_rate=best_rate, trials=trials)


if __name__ == "__main__":
    launch.run(main, "task", within=resume.stage_folder)
