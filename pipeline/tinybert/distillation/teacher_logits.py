"""The teacher's class logits of many sequences, each with as many rows as count in it, packed one after the other."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.tinybert.core import launch, resume
from pipeline.tinybert.data.arrays import ArrayFile

AT_ONCE = 1 << 17  # sequences whose missing logits are told together
LOOKED_AT = 1 << 12  # entries in memory while looking


class Logits:
    """``values`` (rows of all sequences, C) in float32, and where each sequence begins, ``starts`` (sequences + 1,);
    both on disk.
    """

    def __init__(self, folder: str | Path, values: ArrayFile, starts: ArrayFile):
        self.folder, self.values, self.starts = Path(folder), values, starts

    @classmethod
    def unknown(cls, folder: str | Path, counts: np.ndarray, classes: int) -> "Logits":
        """In ``folder``, for sequences of so many rows, none of them computed yet: NaN."""
        folder, rows = Path(folder), int(counts.sum(dtype=np.int64))
        starts = ArrayFile.create_npy(folder / "starts.npy", np.int64, (len(counts) + 1,))
        values = ArrayFile.create_npy(folder / "values.npy", np.float32, (rows, classes))
        place = np.zeros(1, dtype=np.int64)
        starts.append(place)
        for begin in range(0, len(counts), AT_ONCE):
            ends = place[-1] + np.cumsum(counts[begin : begin + AT_ONCE], dtype=np.int64)
            starts.append(ends)
            place = ends
        at_once = max(1, LOOKED_AT // classes)
        for begin in range(0, rows, at_once):
            values.append(np.full((min(at_once, rows - begin), classes), np.nan, dtype=np.float32))
        return cls(folder, values, starts)

    @classmethod
    def kept(cls, folder: str | Path, counts: np.ndarray, classes: int) -> "Logits":
        """Those that a run that was killed has left in ``folder``, where there are any; else ``unknown``. One file for
        all processes: each puts in those that it has computed.
        """
        with launch.main_process_first():
            try:
                names = ("values", "starts")
                return cls(folder, *(ArrayFile.open_npy(Path(folder, f"{name}.npy"), "r+b") for name in names))
            except (OSError, ValueError):
                if launch.rank() > 0:  # the first has made them
                    raise
                return cls.unknown(folder, counts, classes)

    @classmethod
    def load(cls, folder: str | Path) -> "Logits":
        """For reading only."""
        return cls(folder, *(ArrayFile.open_npy(Path(folder, f"{name}.npy")) for name in ("values", "starts")))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, sequence: int) -> np.ndarray:
        return self.values.read(*self.starts.read(sequence, sequence + 2).tolist())

    def missing(self) -> Iterator[np.ndarray]:
        """The numbers of the sequences that are not computed yet, part by part."""
        for begin in range(0, len(self), AT_ONCE):
            yield np.concatenate(list(self._missing(begin, min(begin + AT_ONCE, len(self)))))

    def first_missing(self) -> list[np.ndarray]:
        """What was missing when this was first asked in the folder: a run that goes on computes in the same batches,
        which decide about the last digits.
        """
        noted = self.folder / "missing.npy"
        with launch.main_process_first():
            if not noted.exists():
                resume.save(noted, np.concatenate([part.astype(np.int32) for part in self.missing()]))
        numbers = np.load(noted)
        return np.split(numbers, np.searchsorted(numbers, range(AT_ONCE, len(self), AT_ONCE)))

    def known(self, sequences: np.ndarray) -> bool:
        return not any(np.isnan(self[sequence]).any() for sequence in sequences)

    def _missing(self, begin: int, end: int) -> Iterator[np.ndarray]:
        while begin < end:
            starts = self.starts.read(begin, min(begin + LOOKED_AT, end) + 1)
            starts = starts[: max(2, np.searchsorted(starts, starts[0] + LOOKED_AT, side="right"))]
            unknown = np.isnan(self.values.read(int(starts[0]), int(starts[-1]))).any(axis=-1)
            counts = np.concatenate([[0], np.cumsum(unknown)])[starts - starts[0]]
            yield begin + np.flatnonzero(counts[1:] > counts[:-1])
            begin += len(starts) - 1

    def put(self, sequences: np.ndarray, logits: Tensor, kept: Tensor) -> None:
        """Take a batch's class logits (B, P, C) where ``kept`` (B, P) says that they count."""
        logits, kept = logits.float().cpu().numpy(), kept.cpu().numpy()
        starts, counts = self._places(sequences)
        found = kept.sum(axis=-1)
        if (wrong := np.flatnonzero(found != counts)).size:
            sequence, rows, expected = sequences[wrong[0]], found[wrong[0]], counts[wrong[0]]
            raise ValueError(f"sequence {sequence}: {rows} rows, expected {expected}")
        self.values.write_parts(starts, counts, logits[kept])

    def batch(self, sequences: np.ndarray, kept: Tensor) -> Tensor:
        """(B, P, C) with 0 where ``kept`` (B, P) is false."""
        made = torch.zeros(*kept.shape, self.values.width)
        made[kept] = torch.from_numpy(self.values.read_parts(*self._places(sequences)).copy())
        return made

    def _places(self, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the rows of each begin, and how many they are."""
        places = self.starts.read_parts(sequences, np.full(len(sequences), 2)).reshape(-1, 2)
        return places[:, 0], places[:, 1] - places[:, 0]

    def save(self, folder: Path) -> None:
        for name in ("values", "starts"):
            shutil.copyfile(self.folder / f"{name}.npy", folder / f"{name}.npy")

    def close(self) -> None:
        for file in (self.values, self.starts):
            file.close()
