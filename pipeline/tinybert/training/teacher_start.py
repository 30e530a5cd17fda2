"""What a teacher starts from, and a training before the labels (`similarity`, `contrast`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from transformers import PreTrainedModel

from pipeline.tinybert.core import launch
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.training.embeddings_in_use import embeddings_in_use
from pipeline.tinybert.training.loop import Objective, train_or_load
from pipeline.tinybert.training.plan import Plan

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import FinetuneTeacher, Numerics
    from pipeline.tinybert.tasks import Task


@dataclass(frozen=True)
class TeacherStart:
    """``encoder``: the folder of the encoder that becomes a teacher for the labels of ``train``. ``name``: of the
    teacher's training, for resuming.
    """

    encoder: Path
    tokenizer: Any
    task: Task
    train: list[Row]
    settings: FinetuneTeacher
    numerics: Numerics
    name: str = "training"

    def learn(
        self, subject: str, model: PreTrainedModel, objective: Objective, data: EncodedRows, batch_size: int, into: Path
    ) -> None:
        """Train ``model`` on a subject, "similarity" for example, in the number of steps of the settings, and save its
        encoder in the folder ``into``.
        """
        checkpoints.set_dropout(model, self.settings.dropout)
        plan = Plan.before_labels(f"{subject}_steps", self.settings, self.numerics, batch_size)
        with embeddings_in_use(model, data, self.tokenizer.pad_token_id):
            train_or_load(f"{self.name}-of-{subject}", objective, model, data, Collator(self.tokenizer), plan)
        if launch.rank() == 0:
            checkpoints.save(into, cast(PreTrainedModel, model.base_model), self.tokenizer)
        launch.wait()
