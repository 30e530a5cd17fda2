"""The teacher's class logits of many sequences, each with as many rows as count in it, packed one after the other."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Logits:
    """``values`` (rows of all sequences, C) in float32; where each sequence begins: ``starts`` (sequences + 1,)."""

    def __init__(self, values: np.ndarray, starts: np.ndarray):
        self.values, self.starts = values, starts

    @classmethod
    def unknown(cls, counts: list[int], classes: int) -> "Logits":
        """For sequences of so many rows, none of them computed yet: NaN."""
        starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return cls(np.full((int(starts[-1]), classes), np.nan, dtype=np.float32), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, sequence: int) -> np.ndarray:
        return self.values[self.starts[sequence] : self.starts[sequence + 1]]

    def missing(self) -> np.ndarray:
        """The numbers of the sequences that are not computed yet."""
        unknown = np.isnan(self.values).any(axis=-1)
        counts = np.concatenate([[0], np.cumsum(unknown)])
        return np.flatnonzero(counts[self.starts[1:]] > counts[self.starts[:-1]])

    def put(self, sequences: np.ndarray, logits: Tensor, kept: Tensor) -> None:
        """Take a batch's class logits (B, P, C) where ``kept`` (B, P) says that they count."""
        for sequence, rows, mask in zip(sequences, logits.float().cpu(), kept.cpu(), strict=True):
            self.values[self.starts[sequence] : self.starts[sequence + 1]] = rows[mask].numpy()

    def batch(self, sequences: np.ndarray, kept: Tensor) -> Tensor:
        """(B, P, C) with 0 where ``kept`` (B, P) is false."""
        made = torch.zeros(*kept.shape, self.values.shape[-1])
        made[kept] = torch.from_numpy(np.concatenate([self[sequence] for sequence in sequences]))
        return made

    def save(self, folder: Path) -> None:
        np.save(folder / "values.npy", self.values)
        np.save(folder / "starts.npy", self.starts)

    @classmethod
    def load(cls, folder: str | Path) -> "Logits":
        return cls(*(np.load(Path(folder, f"{name}.npy")) for name in ("values", "starts")))
