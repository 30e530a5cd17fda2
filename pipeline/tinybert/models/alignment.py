"""One text as two tokenizers read it: which word pieces of the one overlap which of the other, by characters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import inference, tokenizers
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.models.encoded_rows import Columns, EncodedRows
from pipeline.tinybert.models.inference import Forward
from pipeline.tinybert.models.piece_spans import in_second_text

if TYPE_CHECKING:
    from pipeline.tinybert.tasks import Task

# Columns of a sequence that a second tokenizer has read: the pieces of the first one's that each piece overlaps.
FIRST, END = "overlaps_from", "overlaps_to"


def overlaps(pieces: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each of the spans ``pieces`` (T, 2), the range of ``others`` (S, 2) that it overlaps, (T, 2): from, to. The
    range is empty (to equals from) if it overlaps none.
    """
    first = np.searchsorted(others[:, 1], pieces[:, 0], side="right")
    return np.stack([first, np.maximum(first, np.searchsorted(others[:, 0], pieces[:, 1], side="left"))], axis=1)


def read_again(task: Task, rows: list[Row], tokenizer, other) -> Columns:
    """For each sequence that ``tokenizer`` makes of the rows, encode the same part of the row with ``other``. Returns
    one sequence for each, with the columns ``FIRST`` and ``END``.
    """
    first_reading = task.encode(rows, tokenizer, with_spans=True)
    parts = [  # the part of its row that each sequence has, and where it begins in the row's last text
        task.as_read(rows[row], spans)
        for row, spans in zip(first_reading["example"], first_reading["piece_spans"], strict=True)
    ]
    second = inference.encode(task.second_reader(other), [part for part, _ in parts], other, with_spans=True)
    _, kept = np.unique(second["example"], return_index=True)  # of a passage that needs two windows, the first
    second = {name: [values[number] for number in kept] for name, values in second.items()}
    ranges = []
    for spans, (_, begin), others in zip(first_reading["piece_spans"], parts, second.pop("piece_spans"), strict=True):
        ranges.append(overlaps(others + begin * in_second_text(others)[:, None], spans))
    return second | {FIRST: [pair[:, 0].tolist() for pair in ranges], END: [pair[:, 1].tolist() for pair in ranges]}


def overlap_weights(first: Tensor, end: Tensor, length: int) -> Tensor:
    """The weights (B, S, T) that give each piece of the first tokenizer the mean of the second one's pieces that
    overlap it; all 0 where none does. first, end: ``FIRST`` and ``END`` (B, T), 0 at padding. length: S.
    """
    piece = torch.arange(length, device=first.device)[None, :, None]
    overlap = (first.unsqueeze(1) <= piece) & (piece < end.unsqueeze(1))
    return overlap / overlap.sum(dim=-1, keepdim=True).clamp(min=1)


@dataclass(frozen=True)
class SecondReading:
    """The sequences of a dataset as another model's tokenizer reads them (`read_again`), one for each."""

    encoded: EncodedRows
    tokenizer: Any

    def class_logits(
        self, task: Task, forward: Forward, data: EncodedRows, tokenizer, numbers: np.ndarray, **options: Any
    ) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """As `inference.class_logits` of the other model, but at the positions of ``data`` and its ``tokenizer``. NaN
        where the other model has read nothing.
        """
        collate, collate_theirs = Collator(tokenizer, "label_mask"), Collator(self.tokenizer, FIRST, END)
        for found, logits, mask in inference.class_logits(forward, self.encoded, self.tokenizer, numbers, **options):
            own: Any = collate(data.batch(found))["label_mask"]
            theirs = collate_theirs(self.encoded.batch(found))
            yield found, task.align_logits(logits.float().cpu(), mask, own, theirs[FIRST], theirs[END]), own


def reads_the_same(one, other) -> bool:
    """Whether two tokenizers give a model the same inputs."""
    return (
        one.get_vocab() == other.get_vocab()
        and one.model_input_names == other.model_input_names
        and tokenizers.difference(one, other) is None
    )


def cut_alike(one, other) -> bool:
    """Whether two tokenizers cut single texts into the same pieces, whatever numbers these have: those of BERT and of
    MPNet do.
    """
    ours, theirs = (tokenizer(tokenizers.sample_of(one), return_offsets_mapping=True) for tokenizer in (one, other))
    return ours["offset_mapping"] == theirs["offset_mapping"]
