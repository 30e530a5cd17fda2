"""Which sequences come together in a batch, in which order, and how they are padded to one length."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Sampler

MEGABATCH = 50  # batches, drawn at random, within which sequences of like lengths come together
COLUMNS = ("input_ids", "attention_mask", "token_type_ids", "labels", "start_positions", "end_positions")


class ByLength(Sampler):
    """Sequences are permuted at random, then sorted by length within each megabatch; the longest of all comes first, so
    that memory is short at once or never. The order is that of the seed and the epoch, whatever else is drawn.

    It is the way of the library's ``LengthGroupedSampler``, with eight bytes a sequence instead of a hundred.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int):
        self.lengths, self.seed, self.epoch = lengths, seed, 0
        self.size = batch_size * max(1, min(len(lengths) // (4 * batch_size), MEGABATCH))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        order = np.arange(len(self.lengths), dtype=np.int32)
        np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        begins = range(0, len(order), self.size)
        longest = int(np.argmax([self.lengths[order[begin : begin + self.size]].max() for begin in begins])) * self.size
        swapped = {0: self._sorted(order, longest)[0], longest: self._sorted(order, 0)[0]}
        for begin in begins:
            megabatch = self._sorted(order, begin)
            megabatch[0] = swapped.get(begin, megabatch[0])
            yield from megabatch

    def _sorted(self, order: np.ndarray, begin: int) -> list[int]:
        megabatch = order[begin : begin + self.size]
        return megabatch[np.argsort(-self.lengths[megabatch].astype(np.int32), kind="stable")].tolist()


class Share(Sampler):
    """Of each batch the rows of one process: every so many-th one. Where a batch, the last of an epoch, has fewer rows
    than there are processes, each takes the whole of it.
    """

    def __init__(self, sampler: ByLength, batch_size: int, process: int, processes: int):
        self.sampler, self.batches = sampler, BatchSampler(sampler, batch_size, drop_last=False)
        self.process, self.processes = process, processes

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield batch[self.process :: self.processes] if len(batch) >= self.processes else batch


@dataclass
class Parts:
    """A column of a batch with an entry for each word-piece: those of all sequences, one after the other."""

    values: np.ndarray
    counts: np.ndarray

    def padded(self, length: int, filler) -> np.ndarray:
        """(sequences, length)."""
        made = np.full(
            (len(self.counts), length), filler, dtype=np.bool_ if self.values.dtype == np.bool_ else np.int64
        )
        made[np.arange(length) < self.counts[:, None]] = self.values
        return made


class Collator:
    """Pads the sequences of a batch, rows or columns, to one length; gives the columns that ``also`` names beside the
    model's own.
    """

    def __init__(self, tokenizer, *also: str):
        self.names, self.longest = (*COLUMNS, *also), tokenizer.model_max_length
        self.fillers = {
            "input_ids": tokenizer.pad_token_id,
            "token_type_ids": tokenizer.pad_token_type_id,
            "attention_mask": 0,
            "labels": -100,
            "kept": False,
        }

    def __call__(self, features: list[dict] | dict[str, Parts | np.ndarray]) -> dict[str, Tensor]:
        if isinstance(features, dict):
            columns, longest = features, int(features["input_ids"].counts.max())
        else:
            columns = {name: [row[name] for row in features] for name in self.names if name in features[0]}
            longest = max(map(len, columns["input_ids"]))
        length = padded_length(longest, self.longest)
        return {name: self._tensor(name, columns[name], length) for name in self.names if name in columns}

    def _tensor(self, name: str, values: list | Parts | np.ndarray, length: int) -> Tensor:
        """Lists are as long as their sequence, but those of floats, or of one entry each, are of the whole of it."""
        if isinstance(values, Parts):
            values = values.padded(length, self.fillers[name])
        elif isinstance(values[0], list) and not isinstance(values[0][0], float) and max(map(len, values)) > 1:
            values = [[*row, *[self.fillers[name]] * (length - len(row))] for row in values]
        return torch.from_numpy(values) if isinstance(values, np.ndarray) else torch.tensor(values)


def padded_length(longest: int, limit: int) -> int:
    """The longest sequence's length, rounded up to a multiple of 2 from 32 on, of 4 from 64, of 8 from 128 and so on.

    Processors and their libraries prepare, and keep, a way to compute for each new shape: gigabytes, where long
    sequences may have any of hundreds of lengths. This costs 3 % of padding at most.
    """
    multiple = 1 << max(0, longest.bit_length() - 5)
    return min(-longest // multiple * -multiple, limit)
