"""A start for the teacher of few texts: it first learns which texts are of one class.

A batch of n texts has n (n - 1) / 2 pairs, so few texts teach an encoder more in pairs than one by one (SetFit,
Tunstall et al. 2022, arXiv 2209.11055, section 3). Afterwards, the states of texts of one class are close together, and
the head that learns the labels finds the classes apart.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoModel

from pipeline.tinybert.core import launch, resume
from pipeline.tinybert.core.log import log, without_counts
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.inference import encode
from pipeline.tinybert.training.embeddings_in_use import embeddings_in_use
from pipeline.tinybert.training.fine_tuning import rows_in
from pipeline.tinybert.training.loop import Batch, Objective, Tensors, train_or_load
from pipeline.tinybert.training.plan import Plan, fitted

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import FinetuneTeacher, Numerics
    from pipeline.tinybert.tasks import Task

BATCH_SIZE = 32  # of each process, which sees only the pairs of its own texts
WARMUP = 0.1
LONGEST = 128  # word pieces of a text: more would take longer than the labels
FEWEST_EPOCHS = 10  # of the labels. With more rows, the contrast of classes made no difference in measurements


def wanted(task: Task, train: list[Row], settings: FinetuneTeacher) -> bool:
    """Whether the rows are single texts with a class, and so few that ``settings.min_steps`` makes at least
    ``FEWEST_EPOCHS``: with the defaults, 400 rows at most.
    """
    if not settings.contrast_steps or not settings.min_steps or not task.has_one_class or task.is_pair(train[0]):
        return False
    fit = fitted(len(train), settings.epochs, settings.batch_size, settings.accumulation, settings.min_steps)
    return fit.steps == settings.min_steps and fit.steps >= FEWEST_EPOCHS * fit.steps_per_epoch


def batch_size(texts: int) -> int:
    """That of all processes, for this number of texts. Batches are equal: a text that is left over has no pair."""
    return math.ceil(texts / math.ceil(texts / (BATCH_SIZE * launch.world_size())))


@contextlib.contextmanager
def start(
    encoder: Path, tokenizer, task: Task, train: list[Row], settings: FinetuneTeacher, numerics: Numerics, name: str
) -> Iterator[Path]:
    """The folder of the encoder after ``settings.contrast_steps``. ``name``: of the training, for resuming."""
    log(f"few rows: {settings.contrast_steps} steps on pairs of texts, of one class or of two (contrast_steps)")
    with resume.folder(f"{name}-contrast") as folder:
        model = checkpoints.load(AutoModel, encoder)
        checkpoints.set_dropout(model, settings.dropout)
        cut = copy.copy(task)
        cut.max_length = min(task.max_length, LONGEST)
        with without_counts():  # of texts that are cut
            data = EncodedRows.in_memory(encode(cut, train, tokenizer))
        plan = Plan(
            stage="finetune_teacher.contrast_steps",
            **numerics.model_dump(),
            batch_size=batch_size(len(data)),
            learning_rate=settings.learning_rates[0],
            epochs=1,
            steps=settings.contrast_steps,
            checkpointing=settings.checkpointing,
            warmup=WARMUP,
            weight_decay=settings.weight_decay,
        )
        with embeddings_in_use(model, data, tokenizer.pad_token_id):
            train_or_load(f"{name}-of-contrast", ContrastObjective(), model, data, Collator(tokenizer), plan)
        if launch.rank() == 0:
            checkpoints.save(folder / "encoder", model, tokenizer)
        launch.wait()
        yield folder / "encoder"


class ContrastObjective(Objective):
    """The squared error of the cosine of two texts, which is to be 1 if they are of one class, and 0 if not. A text is
    the mean of an encoder's last states.
    """

    needs_all_weights = False  # an encoder's pooler has no part in the loss

    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensors, Tensors]:
        inputs = {name: values for name, values in batch.items() if name != "labels"}
        states: Any = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        texts = normalize((states.float() * mask).sum(1) / mask.sum(1), dim=1)
        return {"loss": contrast(texts @ texts.T, batch["labels"])}, {}

    def counts(self, batch: Batch) -> Tensors:
        return {"loss": rows_in(batch)}


def contrast(cosines: Tensor, labels: Tensor) -> Tensor:
    """The mean squared error of pairs of one class and that of other pairs, of which each counts half: a scalar.

    cosines: (B, B), of texts with ``labels`` (B,). Pairs of a text with itself do not count.
    """
    alike = (labels.unsqueeze(0) == labels.unsqueeze(1)).float()
    others = 1 - alike
    alike = alike - torch.eye(len(labels), device=alike.device)
    return (_mean((1 - cosines) ** 2, alike) + _mean(cosines**2, others)) / 2


def _mean(errors: Tensor, pairs: Tensor) -> Tensor:
    """Of the errors (B, B) where ``pairs`` is 1; 0 if there are none."""
    return (errors * pairs).sum() / pairs.sum().clamp(min=1)
