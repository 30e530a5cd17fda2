"""Which sequences form a batch, in which order, and how they are padded to one length."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Sampler

MEGABATCH = 50  # random batches whose sequences are sorted by length together
COLUMNS = ("input_ids", "attention_mask", "token_type_ids", "labels", "start_positions", "end_positions")


class ByLength(Sampler):
    """An order in which batches hold sequences of similar lengths: sequences are permuted at random, then sorted by
    length within each megabatch. The longest sequence of all comes first, so an out-of-memory error shows on the first
    batch. The order depends on the seed and the epoch only.

    Like the library's ``LengthGroupedSampler``, but with 8 bytes per sequence instead of 100.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, epoch: int = 0):
        self.lengths, self.seed, self.epoch = lengths, seed, epoch
        self.size = batch_size * max(1, min(len(lengths) // (4 * batch_size), MEGABATCH))

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
    """One process's rows of each batch: every ``processes``-th row. A batch (the last of an epoch) with fewer rows than
    processes goes to every process as a whole. The first ``skip`` batches are left out.
    """

    def __init__(self, order: ByLength, batch_size: int, process: int = 0, processes: int = 1, skip: int = 0):
        self.batches = BatchSampler(order, batch_size, drop_last=False)
        self.process, self.processes, self.skip = process, processes, skip

    def __len__(self) -> int:
        return len(self.batches) - self.skip

    def __iter__(self) -> Iterator[list[int]]:
        for number, batch in enumerate(self.batches):
            if number >= self.skip:
                yield batch[self.process :: self.processes] if len(batch) >= self.processes else batch


@dataclass
class Pieces:
    """A column with a value per word piece: the ``values`` of a batch's sequences, concatenated, and ``counts``, the
    length of each sequence.
    """

    values: np.ndarray
    counts: np.ndarray

    def padded(self, length: int, filler) -> np.ndarray:
        """The values as (sequences, length), padded at the end with ``filler``."""
        dtype = np.bool_ if self.values.dtype == np.bool_ else np.int64
        made: np.ndarray = np.full((len(self.counts), length), filler, dtype=dtype)
        made[np.arange(length) < self.counts[:, None]] = self.values
        return made


Batch = dict[str, Pieces | np.ndarray]


class Collator:
    """Pads a batch of sequences to one length. Returns the model's inputs, and the columns named in ``also``.

    Example: input_ids (B, S), attention_mask (B, S), labels (B,) or (B, S).
    """

    def __init__(self, tokenizer, *also: str, round_lengths: bool = True):
        self.names, self.longest, self.round_lengths = (*COLUMNS, *also), tokenizer.model_max_length, round_lengths
        self.fillers = {
            "input_ids": tokenizer.pad_token_id,
            "token_type_ids": tokenizer.pad_token_type_id,
            "attention_mask": 0,
            "labels": -100,
            "label_mask": False,
            **dict.fromkeys(("overlaps_from", "overlaps_to"), 0),
        }

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        ids = batch["input_ids"]
        assert isinstance(ids, Pieces)
        length = int(ids.counts.max())
        if self.round_lengths:
            length = padded_length(length, self.longest)
        return {name: self._tensor(name, batch[name], length) for name in self.names if name in batch}

    def _tensor(self, name: str, values: Pieces | np.ndarray, length: int) -> Tensor:
        return torch.from_numpy(values.padded(length, self.fillers[name]) if isinstance(values, Pieces) else values)


def padded_length(longest: int, limit: int) -> int:
    """The longest sequence's length, rounded up to a multiple of 2 from 32 on, of 4 from 64, of 8 from 128 and so on.

    Libraries prepare and cache kernels for each new shape: hundreds of different lengths would take gigabytes. Rounding
    costs at most 3 % of padding.
    """
    multiple = 1 << max(0, longest.bit_length() - 5)
    return min(-longest // multiple * -multiple, limit)
