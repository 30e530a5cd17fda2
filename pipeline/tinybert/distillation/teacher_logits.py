"""The teacher's class logits of many sequences, packed one after the other in a memory-mapped file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from pipeline.tinybert.core import launch, resume
from pipeline.tinybert.core.log import log
from pipeline.tinybert.data.arrays import MappedArray
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.inference import class_logits, pytorch_forward
from pipeline.tinybert.models.precision import to_inference

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import Numerics
    from pipeline.tinybert.tasks import Task

SEQUENCES_PER_BLOCK = 1 << 17  # when looking for missing logits
ENTRIES_PER_READ = 1 << 12


class TeacherLogits:
    """``values`` (rows of logits of all sequences, C), float32, NaN where they are not computed yet, and ``starts``
    (sequences + 1,), where each sequence's rows begin.
    """

    def __init__(self, folder: str | Path, values: MappedArray, starts: MappedArray):
        self.folder, self.values, self.starts = Path(folder), values, starts

    @classmethod
    def create(cls, folder: str | Path, counts: np.ndarray, classes: int) -> TeacherLogits:
        """Files in ``folder`` for sequences with ``counts`` (N,) rows of logits, none of them computed."""
        folder, rows = Path(folder), int(counts.sum(dtype=np.int64))
        starts = MappedArray.create(folder / "starts.npy", np.int64, (len(counts) + 1,))
        place = 0
        for begin in range(0, len(counts), SEQUENCES_PER_BLOCK):
            ends = place + np.cumsum(counts[begin : begin + SEQUENCES_PER_BLOCK], dtype=np.int64)
            starts[begin + 1 : begin + 1 + len(ends)] = ends
            place = ends[-1]
        values = MappedArray.create(folder / "values.npy", np.float32, (rows, classes), value=np.nan)
        return cls(folder, values, starts)

    @classmethod
    def open_or_create(cls, folder: str | Path, counts: np.ndarray, classes: int) -> TeacherLogits:
        """What an interrupted run has left in ``folder``; otherwise new files. All processes share them: each process
        writes the logits that it has computed.
        """
        with launch.main_process_first():
            done = Path(folder, CREATED)
            if not done.exists():
                cls.create(folder, counts, classes).close()
                resume.write(done, {"sequences": len(counts)})
            return cls.load(folder, mode="r+")

    @classmethod
    def load(cls, folder: str | Path, mode: Literal["r", "r+"] = "r") -> TeacherLogits:
        return cls(folder, *(MappedArray.open(Path(folder, f"{name}.npy"), mode=mode) for name in ("values", "starts")))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def missing(self) -> list[np.ndarray]:
        """Numbers of the sequences whose logits were missing when this was first called in the folder, in blocks.

        A resumed run computes the same batches as the run that was interrupted: the last digits depend on the batch.
        """
        noted = self.folder / "missing.npy"
        with launch.main_process_first():
            if not noted.exists():
                resume.save(noted, np.concatenate([np.zeros(0, dtype=np.int32), *self._missing()]))
        numbers = np.load(noted)
        blocks = range(SEQUENCES_PER_BLOCK, len(self), SEQUENCES_PER_BLOCK)
        return np.split(numbers, np.searchsorted(numbers, blocks))

    def _missing(self) -> Iterator[np.ndarray]:
        begin = 0
        while begin < len(self):
            starts = self.starts[begin : min(begin + ENTRIES_PER_READ, len(self)) + 1]
            starts = starts[: max(2, np.searchsorted(starts, starts[0] + ENTRIES_PER_READ, side="right"))]
            unknown = np.isnan(self.values[int(starts[0]) : int(starts[-1])]).any(axis=-1)
            counts = np.concatenate([[0], np.cumsum(unknown)])[starts - starts[0]]
            yield (begin + np.flatnonzero(counts[1:] > counts[:-1])).astype(np.int32)
            begin += len(starts) - 1

    def known(self, sequences: np.ndarray) -> bool:
        """Whether the logits of all of these sequences are computed."""
        return not np.isnan(self.values[self._rows(sequences)[0]]).any()

    def put(self, sequences: np.ndarray, logits: Tensor, mask: Tensor) -> None:
        """Write the logits (B, P, C) of a batch of sequences, at the positions of the mask (B, P)."""
        chosen = mask.cpu().numpy()
        rows, counts = self._rows(sequences)
        found = chosen.sum(axis=-1)
        if (wrong := np.flatnonzero(found != counts)).size:
            first = wrong[0]
            raise ValueError(f"sequence {sequences[first]}: {found[first]} rows, expected {counts[first]}")
        self.values[rows] = logits.float().cpu().numpy()[chosen]

    def batch(self, sequences: np.ndarray, mask: Tensor) -> Tensor:
        """(B, P, C): the logits at the positions of the mask (B, P), 0 elsewhere."""
        made = torch.zeros(*mask.shape, self.values.shape[1])
        made[mask] = torch.from_numpy(self.values[self._rows(sequences)[0]])
        return made

    def _rows(self, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The row numbers of all these sequences' logits, and how many each has."""
        sequences = np.asarray(sequences, dtype=np.int64)
        begins = self.starts[sequences]
        counts = self.starts[sequences + 1] - begins
        ends = np.cumsum(counts)
        return np.repeat(begins - (ends - counts), counts) + np.arange(ends[-1]), counts

    def save(self, folder: Path) -> None:
        for name in ("values", "starts"):
            shutil.copyfile(self.folder / f"{name}.npy", folder / f"{name}.npy")

    def close(self) -> None:
        for array in (self.values, self.starts):
            array.close()


CREATED = "created.json"


def fill(
    logits: TeacherLogits, teacher: PreTrainedModel, task: Task, data: EncodedRows, tokenizer, numerics: Numerics
) -> None:
    """Compute the teacher's logits of all sequences of ``data`` that have none yet."""
    launch.wait()
    blocks = logits.missing()
    count = sum(map(len, blocks))  # of all processes
    if not count:
        return
    log(f"computing the teacher's logits of {count} rows")
    to_inference(teacher, numerics.precision, launch.device())
    bar = tqdm(total=count // launch.world_size(), desc="teacher", unit="row", disable=launch.rank() > 0)
    with bar, pytorch_forward(task, teacher, numerics.precision) as forward:
        for numbers in blocks:
            for found in class_logits(forward, data, tokenizer, numbers, progress=bar, skip=logits.known):
                logits.put(*found)
    launch.wait()
