"""Several models as one: the mean of their logits. A single model is an ensemble of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedModel

from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import alignment
from pipeline.tinybert.models.alignment import SecondReading
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.inference import EvaluationSet, Forward, pytorch_forward

if TYPE_CHECKING:
    from pipeline.tinybert.tasks import Task

Member = tuple[PreTrainedModel, Any]  # a model and its tokenizer
Logits = list[np.ndarray]  # for each sequence, the class logits of the positions that count, (positions, C)


def folders(folder: Path) -> list[Path]:
    """Where the members of an ensemble are saved: the first one in ``folder``, the others in 2, 3, … below it."""
    return [
        folder,
        *sorted((path for path in folder.glob("*") if path.name.isdigit()), key=lambda path: int(path.name)),
    ]


class Ensemble:
    def __init__(self, task: Task, members: list[tuple[Forward, Any]]):
        """``members``: what computes the class logits of each, and its tokenizer."""
        self.task, self.members = task, members

    def logits(self, rows: list[Row], description: str = "") -> tuple[EvaluationSet, list[Logits]]:
        """The rows as the first member reads them, and the logits of each member, at the first one's positions. NaN
        where a member has read less than the first one.
        """
        _, first = self.members[0]
        read = EvaluationSet(self.task, rows, first)
        return read, [read.logits(forward, description=description, reading=self._reading(rows, tokenizer))
                      for forward, tokenizer in self.members]  # fmt: skip

    def _reading(self, rows: list[Row], tokenizer: Any) -> SecondReading | None:
        _, first = self.members[0]
        if tokenizer is first or alignment.reads_the_same(first, tokenizer):
            return None
        columns = alignment.read_again(self.task, rows, first, tokenizer)
        return SecondReading(EncodedRows.in_memory(columns), tokenizer)


def mean(members: list[Logits]) -> Logits:
    """The mean of the members' logits, of those that know a position."""
    if len(members) == 1:
        return members[0]
    return [np.nanmean(np.stack(of_sequence), axis=0) for of_sequence in zip(*members, strict=True)]


@contextmanager
def opened(task: Task, members: list[Member]) -> Iterator[Ensemble]:
    """The ensemble of these models, in evaluation mode inside the block."""
    with ExitStack() as block:
        forwards = [(block.enter_context(pytorch_forward(task, model)), tokenizer) for model, tokenizer in members]
        yield Ensemble(task, forwards)
