"""Fine-tune the general student on labels, without distillation: the baseline that distillation has to beat."""

from pathlib import Path

from transformers import PreTrainedModel

from pipeline.tinybert import tasks
from pipeline.tinybert.core import launch, resume, settings
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
    task = tasks.load(configuration, name)
    train, validation_rows = (list(rows.read(prepared / f"{split}.jsonl")) for split in ("train", "validation"))
    general_student = Path("models", name, "general_student")
    tokenizer = checkpoints.tokenizer(general_student)
    validation = EvaluationSet(task, validation_rows, tokenizer)

    def new_student() -> PreTrainedModel:
        return task.load_model(general_student, numerics.seed)

    student = fine_tuning.fine_tune(new_student, train, validation, recipe, numerics, STAGE)

    with output(Path("models", name, "student_alone")) as out:
        checkpoints.save(out, student.model, tokenizer)
    with output(Path("metrics", name, STAGE)) as out:
        fine_tuning.write_result(out, task, student)


if __name__ == "__main__":
    launch.run(main, "task", within=resume.stage_folder)
