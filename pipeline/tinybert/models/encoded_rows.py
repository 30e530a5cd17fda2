"""Encoded rows: model inputs of many sequences as flat arrays, in memory or memory-mapped on disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch.utils.data import Dataset

from pipeline.tinybert.core import launch, whole
from pipeline.tinybert.core.log import summed_counts
from pipeline.tinybert.data.arrays import MappedArray
from pipeline.tinybert.models.batches import Batch, Pieces

Array = np.ndarray | MappedArray
Columns = dict[str, list]  # what `Task.encode` returns, one entry per sequence
PIECES = {"input_ids": np.int32, "token_type_ids": np.uint8, "label_mask": np.bool_, "labels": np.int64}
PIECES |= {"overlaps_from": np.uint16, "overlaps_to": np.uint16}  # see `alignment`
ON_DISK = {"starts": np.int64, "counts": np.uint16, **PIECES}
LENGTHS, SEAL = "lengths.npy", "encoded.json"
SEQUENCES_PER_BLOCK = 1 << 14


class EncodedRows(Dataset):
    """Sequences of different lengths. A column with an entry per word piece is one flat array over all sequences; other
    columns have an entry per sequence. A `Collator` pads what ``encoded.batch(numbers)`` returns.

    ``lengths`` (N,): word pieces of each sequence.
    """

    def __init__(
        self,
        pieces: dict[str, Array],
        starts: Array,
        all_lengths: np.ndarray,
        sequences: dict[str, Array] | None = None,
        numbers: np.ndarray | None = None,
        counts: Array | None = None,
    ):
        """``numbers``: which sequences of the arrays belong to this dataset, in order; None: all.
        ``counts``: how many rows of class logits count in each sequence of the arrays; None: one in each.
        """
        self.pieces, self.starts, self.all_lengths = pieces, starts, all_lengths
        self.sequences, self.numbers, self.counts = sequences or {}, numbers, counts
        self.lengths = all_lengths if numbers is None else all_lengths[numbers]

    @classmethod
    def in_memory(cls, columns: Columns) -> EncodedRows:
        lengths = np.array([len(ids) for ids in columns["input_ids"]], dtype=np.int64)
        pieces: dict[str, Array] = {}
        sequences: dict[str, Array] = {}
        for name, values in columns.items():
            if name in PIECES and _is_by_piece(values, lengths):
                pieces[name] = _flat(values, PIECES[name])
            elif name in (*PIECES, "start_positions", "end_positions"):
                sequences[name] = _without_doubles(np.array(values))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return cls(pieces, starts, lengths, sequences)

    @classmethod
    def load(cls, folder: str | Path) -> EncodedRows | None:
        """The sequences that an `EncodedRowsWriter` wrote to ``folder``; None if they are unfinished or damaged."""
        return None if whole.sealed(Path(folder, SEAL)) is None else cls._open(folder)

    @classmethod
    def _open(cls, folder: str | Path) -> EncodedRows:
        arrays: dict[str, Array] = {
            name: MappedArray.open(path, dtype)
            for name, dtype in ON_DISK.items()
            if (path := Path(folder, f"{name}.bin")).exists()
        }
        starts, counts = arrays.pop("starts"), arrays.pop("counts", None)
        return cls(arrays, starts, np.load(Path(folder, LENGTHS)), counts=counts)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, indices: list[int] | np.ndarray) -> Batch:
        indices = np.asarray(indices)
        numbers = indices if self.numbers is None else self.numbers[indices].astype(np.int64)
        places, counts = self._places(numbers)
        return {
            "attention_mask": Pieces(np.ones(len(places), dtype=np.int64), counts),
            "label_mask": np.ones((len(numbers), 1), dtype=np.bool_),
            **{name: Pieces(values[places], counts) for name, values in self.pieces.items()},
            **{name: values[numbers] for name, values in self.sequences.items()},
            "number": numbers,
        }

    __getitems__ = batch  # torch's DataLoader asks for a whole batch by this name

    def _places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the word pieces of these sequences of the arrays are, and how many each sequence has."""
        counts = self.all_lengths[numbers].astype(np.int64)
        ends = np.cumsum(counts)
        return np.repeat(self.starts[numbers] - (ends - counts), counts) + np.arange(ends[-1]), counts

    def select(self, indices: np.ndarray) -> EncodedRows:
        """A dataset of these sequences only."""
        indices = indices.astype(np.int32)
        numbers = indices if self.numbers is None else self.numbers[indices]
        return EncodedRows(self.pieces, self.starts, self.all_lengths, self.sequences, numbers, self.counts)

    def pieces_in_use(self) -> np.ndarray:
        """The ids of the word pieces that occur in this dataset, ascending."""
        found = np.zeros(0, dtype=np.int64)
        for begin in range(0, len(self), SEQUENCES_PER_BLOCK):
            numbers = np.arange(begin, min(begin + SEQUENCES_PER_BLOCK, len(self)))
            places, _ = self._places(numbers if self.numbers is None else self.numbers[numbers])
            found = np.union1d(found, self.pieces["input_ids"][places])
        return found

    def others(self) -> np.ndarray:
        """The numbers of the arrays' sequences that do not belong to this dataset, ascending, int32."""
        is_other = np.ones(len(self.all_lengths), dtype=bool)
        is_other[slice(None) if self.numbers is None else self.numbers] = False
        return np.flatnonzero(is_other).astype(np.int32)

    def logit_counts(self) -> np.ndarray:
        """How many rows of class logits count in each sequence of the arrays, (all sequences,)."""
        return np.ones(len(self.all_lengths), dtype=np.uint16) if self.counts is None else self.counts[:]

    def close(self) -> None:
        for array in (*self.pieces.values(), self.starts, self.counts):
            if isinstance(array, MappedArray):
                array.close()


class EncodedRowsWriter:
    """Writes the columns of `Task.encode` into ``folder``, block by block."""

    def __init__(self, folder: str | Path):
        self.folder, self.place = Path(folder), 0
        self.files: dict[str, BinaryIO] = {}
        self.lengths: list[np.ndarray] = []
        self._append("starts", np.zeros(1))

    def add(self, columns: Columns) -> None:
        lengths = np.array([len(ids) for ids in columns["input_ids"]], dtype=np.uint16)
        if not len(lengths):
            return
        self.lengths.append(lengths)
        self._append("starts", self.place + np.cumsum(lengths, dtype=np.int64))
        self.place += int(lengths.sum())
        for name in ("input_ids", "token_type_ids", "label_mask", "overlaps_from", "overlaps_to"):
            if name in columns and _is_by_piece(columns[name], lengths):
                self._append(name, _flat(columns[name], PIECES[name]))
                if name == "label_mask":
                    self._append("counts", np.array([sum(mask) for mask in columns[name]]))

    def _append(self, name: str, values: np.ndarray) -> None:
        if name not in self.files:
            self.files[name] = open(self.folder / f"{name}.bin", "wb")  # noqa: SIM115 closed in `finished`
        self.files[name].write(np.ascontiguousarray(values, ON_DISK[name]).tobytes())

    def finished(self, *more: Path) -> EncodedRows:
        """Finish the files and return their sequences. ``more``: further files that belong to them."""
        for file in self.files.values():
            file.close()
        np.save(self.folder / LENGTHS, np.concatenate([np.zeros(0, dtype=np.uint16), *self.lengths]))
        files = [self.folder / LENGTHS, *(Path(file.name) for file in self.files.values()), *more]
        whole.seal(self.folder / SEAL, files)
        return EncodedRows._open(self.folder)


def load_or_write(folder: str | Path, blocks: Iterable[Columns], *more: Path) -> EncodedRows:
    """The sequences of ``blocks``, in files in ``folder``: those that an interrupted run has finished, or new ones.

    The first process writes, the others load. ``more``: further files, which ``blocks`` writes before it ends.
    """
    with launch.main_process_first():
        data = EncodedRows.load(folder)
        if data is None:
            writer = EncodedRowsWriter(folder)
            with summed_counts():
                for columns in blocks:
                    writer.add(columns)
            data = writer.finished(*more)
    return data


def _is_by_piece(values: list, lengths: np.ndarray) -> bool:
    """Whether each sequence has an integer per word piece. A list of floats is the label of a whole row."""
    return all(
        isinstance(entry, list) and len(entry) == length and not isinstance(entry[0], float)
        for entry, length in zip(values, lengths, strict=True)
    )


def _flat(values: list[list], dtype) -> np.ndarray:
    return np.array([entry for sequence in values for entry in sequence], dtype=dtype)


def _without_doubles(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype == np.float64 else values
