"""Contrastive training of a teacher's encoder before the labels, for few texts: which texts have the same class.

A batch of n texts has n (n - 1) / 2 pairs, so few texts teach an encoder more in pairs than one by one (SetFit,
Tunstall et al. 2022, arXiv 2209.11055, section 3). Afterwards, the states of texts of one class are close together, and
the classes are already separated when the head learns the labels.
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
from transformers import AutoModel

from pipeline.tinybert.core import launch, resume
from pipeline.tinybert.core.log import log, without_counts
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.embeddings import mean_states
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.inference import encode
from pipeline.tinybert.training.fine_tuning import rows_in
from pipeline.tinybert.training.loop import Batch, Objective, Tensors
from pipeline.tinybert.training.plan import fitted
from pipeline.tinybert.training.teacher_start import TeacherStart

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import FinetuneTeacher
    from pipeline.tinybert.tasks import Task

BATCH_SIZE = 32  # at most, of each process, which sees only the pairs of its own texts
LONGEST = 128  # word pieces of a text: more would take longer than the labels
FEWEST_EPOCHS = 10  # of the labels: with fewer, the contrast of classes made no difference in measurements


def wanted(task: Task, train: list[Row], settings: FinetuneTeacher) -> bool:
    """Whether the rows are single texts with a class, and so few that ``settings.min_steps`` makes at least
    ``FEWEST_EPOCHS``: with the defaults, 400 rows at most.
    """
    if not settings.contrast_steps or not settings.min_steps or not task.has_one_class or task.is_pair(train[0]):
        return False
    fit = fitted(len(train), settings.epochs, settings.batch_size, settings.accumulation, settings.min_steps)
    return fit.steps == settings.min_steps and fit.steps >= FEWEST_EPOCHS * fit.steps_per_epoch


def batch_size(texts: int, largest: int) -> int:
    """The number of texts in a batch of all processes, at most ``largest``. All batches have about this size, because a
    text alone has no pair.
    """
    largest = max(2, min(BATCH_SIZE * launch.world_size(), largest))
    return math.ceil(texts / math.ceil(texts / largest))


@contextlib.contextmanager
def start(first: TeacherStart) -> Iterator[tuple[Path, FinetuneTeacher]]:
    """The folder of the encoder after it has learned the contrast of classes in ``contrast_steps``, and the settings to
    train the teacher with.
    """
    settings = first.settings
    log(
        f"few rows: {settings.contrast_steps} contrastive steps before the labels, on pairs of texts of the same or of"
        " different classes (contrast_steps)"
    )
    truncated = copy.copy(first.task)
    truncated.max_length = min(first.task.max_length, LONGEST)
    with without_counts():  # of texts that are cut
        data = EncodedRows.in_memory(encode(truncated, first.train, first.tokenizer))
    size = batch_size(len(data), settings.batch_size)
    with resume.folder(f"{first.name}-contrast") as folder:
        model = checkpoints.load(AutoModel, first.encoder)
        first.learn("contrast", model, ContrastObjective(), data, size, folder / "encoder")
        del model  # the labels are learned inside the block, by a model of their own
        yield folder / "encoder", settings


class ContrastObjective(Objective):
    """The squared error of the cosine similarity of two texts. The target is 1 for texts of the same class, else 0.
    A text's vector is the mean of the encoder's last states.
    """

    needs_all_weights = False  # an encoder's pooler has no part in the loss

    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensors, Tensors]:
        inputs = {name: values for name, values in batch.items() if name != "labels"}
        states: Any = model(**inputs).last_hidden_state
        vectors = mean_states(states, inputs["attention_mask"])
        with torch.autocast(vectors.device.type, enabled=False):  # bfloat16 rounds cosines near 1 to steps of 1/256
            cosines = vectors @ vectors.T
        return {"loss": contrast(cosines, batch["labels"])}, {}

    def counts(self, batch: Batch) -> Tensors:
        return {"loss": rows_in(batch)}


def contrast(cosines: Tensor, labels: Tensor) -> Tensor:
    """The average of two mean squared errors, that of pairs of the same class and that of other pairs: a scalar.

    cosines: (B, B), of texts with ``labels`` (B,). Pairs of a text with itself do not count.
    """
    alike = (labels.unsqueeze(0) == labels.unsqueeze(1)).float()
    others = 1 - alike
    alike = alike - torch.eye(len(labels), device=alike.device)
    return (_mean((1 - cosines) ** 2, alike) + _mean(cosines**2, others)) / 2


def _mean(errors: Tensor, pairs: Tensor) -> Tensor:
    """The mean of the errors (B, B) where ``pairs`` is 1; 0 if there are none."""
    return (errors * pairs).sum() / pairs.sum().clamp(min=1)
