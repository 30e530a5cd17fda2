"""Several models as one: the mean of their logits. A single model is an ensemble of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    others = (path for path in folder.glob("*") if path.name.isdigit())
    return [folder, *sorted(others, key=lambda path: int(path.name))]


def other_tokenizers(first: Any, several: Iterable[Any]) -> list[Any | None]:
    """The tokenizers, with None in place of each one that reads texts as ``first`` does."""
    return [None if one is first or alignment.reads_the_same(first, one) else one for one in several]


class Ensemble:
    def __init__(self, task: Task, forwards: list[Forward], tokenizers: list[Any]):
        """``forwards``: what computes the class logits of each member."""
        self.task, self.forwards, self.tokenizer = task, forwards, tokenizers[0]
        self.others = other_tokenizers(self.tokenizer, tokenizers)

    def logits(self, rows: list[Row], description: str = "") -> tuple[EvaluationSet, list[Logits]]:
        """The rows as the first member reads them, and the logits of each member at the first one's positions. They are
        NaN at positions that a member has not read.
        """
        read = EvaluationSet(self.task, rows, self.tokenizer)
        readings = (None if other is None else self._reading(rows, other) for other in self.others)
        return read, [read.logits(forward, description=description, reading=reading)
                      for forward, reading in zip(self.forwards, readings, strict=True)]  # fmt: skip

    def _reading(self, rows: list[Row], tokenizer: Any) -> SecondReading:
        columns = alignment.read_again(self.task, rows, self.tokenizer, tokenizer)
        return SecondReading(EncodedRows.in_memory(columns), tokenizer)


def mean(members: list[Logits]) -> Logits:
    """The mean of the members' logits at each position, without the members that have not read it."""
    if len(members) == 1:
        return members[0]
    return [np.nanmean(np.stack(of_sequence), axis=0) for of_sequence in zip(*members, strict=True)]


@contextmanager
def opened(task: Task, members: list[Member]) -> Iterator[Ensemble]:
    """The ensemble of these models, in evaluation mode inside the block."""
    with ExitStack() as block:
        forwards = [block.enter_context(pytorch_forward(task, model)) for model, _ in members]
        yield Ensemble(task, forwards, [tokenizer for _, tokenizer in members])
