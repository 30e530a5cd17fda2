"""The student learns the teacher's logits, which `distill_intermediate` has computed: the teacher does not run again.

With `targets: labels` it learns the labels instead, for comparison.
"""

from contextlib import closing
from pathlib import Path

from transformers import PreTrainedModel

from pipeline.tinybert import tasks
from pipeline.tinybert.core import launch, resume, settings
from pipeline.tinybert.core.output import output
from pipeline.tinybert.data import rows
from pipeline.tinybert.distillation import transfer_set
from pipeline.tinybert.distillation.prediction import STAGE, learn_logits
from pipeline.tinybert.distillation.teacher_logits import TeacherLogits
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.inference import EvaluationSet
from pipeline.tinybert.training import fine_tuning


def main(name: str) -> None:
    configuration = settings.load()
    recipe, numerics = configuration.of("distill_prediction", name), configuration.numerics
    prepared = Path("data", name, "prepared")
    task = tasks.load(configuration, name)
    intermediate = Path("models", name, "intermediate")
    tokenizer = checkpoints.tokenizer(intermediate)
    validation = EvaluationSet(task, list(rows.read(prepared / "validation.jsonl")), tokenizer)

    def new_student() -> PreTrainedModel:
        return task.load_model(intermediate)

    if recipe.targets == "labels":
        labelled = list(transfer_set.labelled_rows(task, name, recipe.augmented))
        trained = fine_tuning.fine_tune(new_student, labelled, validation, recipe, numerics, STAGE)
    else:
        transfer_rows, logits_folder = transfer_set.rows(task, name), Path("data", name, "teacher_logits")
        with (
            resume.folder("transfer") as folder,
            closing(transfer_set.encode(task, transfer_rows, tokenizer, folder, recipe.augmented)) as data,
            closing(TeacherLogits.load_for(logits_folder, data.logit_counts(), task.num_classes)) as logits,
        ):
            trained = learn_logits(new_student, tokenizer, data, logits, validation, recipe, numerics)

    with output(Path("models", name, "student")) as out:
        checkpoints.save(out, trained.model, tokenizer)
    with output(Path("metrics", name, "distill_prediction")) as out:
        fine_tuning.write_result(out, task, trained)


if __name__ == "__main__":
    launch.run(main, "task", within=resume.stage_folder)
