"""The prediction stage of TinyBERT's distillation (Jiao et al. 2020, equation 10): the student learns the teacher's
logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.distillation import losses
from pipeline.tinybert.distillation.teacher_logits import TeacherLogits
from pipeline.tinybert.models.batches import Batch as Rows
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.inference import EvaluationSet
from pipeline.tinybert.training.fine_tuning import Trained, Training
from pipeline.tinybert.training.loop import Batch, Objective, Tensors

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import DistillPrediction, Numerics
    from pipeline.tinybert.tasks import Task

STAGE = "distill_prediction"


class LogitsCollator(Collator):
    """Adds the teacher's logits (B, P, C) to a batch's model inputs."""

    def __init__(self, tokenizer, logits: TeacherLogits):
        super().__init__(tokenizer, "number", "label_mask")
        self.logits = logits

    def __call__(self, batch: Rows) -> dict[str, Tensor]:
        tensors = super().__call__(batch)
        numbers = tensors.pop("number").numpy()
        logits = self.logits.batch(numbers, tensors["label_mask"])
        tensors["label_mask"] &= ~logits.isnan().any(dim=-1)
        return {**tensors, "teacher_logits": logits.nan_to_num()}


class PredictionObjective(Objective):
    """The task's distillation loss between the logits of student and teacher, at a temperature."""

    def __init__(self, task: Task, temperature: float):
        self.task, self.temperature = task, temperature
        self.loss = getattr(losses, task.loss)

    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensors, Tensors]:
        teacher, mask = batch.pop("teacher_logits"), batch.pop("label_mask")
        student = self.task.class_logits(model(**batch))
        return {"loss": self.loss(student, teacher, mask, self.temperature)}, {}

    def counts(self, batch: Batch) -> Tensors:
        return {"loss": self.task.count_distributions(batch["label_mask"])}


def learn_logits(
    new_student: Callable[[], PreTrainedModel],
    tokenizer,
    data: EncodedRows,
    logits: TeacherLogits,
    validation: EvaluationSet,
    settings: DistillPrediction,
    numerics: Numerics,
) -> Trained:
    """Train a student on the teacher's ``logits`` of ``data``, without the rows that the teacher does not know."""
    known = logits.known_sequences()[slice(None) if data.numbers is None else data.numbers]
    if not known.any():
        raise UserError(
            f"{STAGE}: the teacher has logits for none of {len(data)} rows: add rows of train to the file of"
            " finetune_teacher.predictions"
        )
    if not known.all():
        log(f"{len(data) - known.sum()} of {len(data)} rows are left out: the teacher has no logits for them")
        data = data.select(np.flatnonzero(known))
    objective = PredictionObjective(validation.task, settings.temperature)
    collate = LogitsCollator(tokenizer, logits)
    return Training(objective, data, collate, validation, settings, numerics, STAGE).best(new_student)
