"""The teacher's class logits of many sequences, packed one after the other in a memory-mapped file."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from pipeline.tinybert.core import launch
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.whole import AppendedFile
from pipeline.tinybert.data.arrays import MappedArray
from pipeline.tinybert.models.alignment import SecondReading
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.inference import class_logits, pytorch_forward
from pipeline.tinybert.models.known_logits import KnownLogits
from pipeline.tinybert.models.precision import to_inference

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import Numerics
    from pipeline.tinybert.data.rows import Row
    from pipeline.tinybert.tasks import Task

SEQUENCES_PER_BLOCK = 1 << 17
SECONDS_BETWEEN_COMMITS = 60  # what a killed run loses at most


class TeacherLogits:
    """``values``: rows of logits of all sequences, (rows, C), float32, NaN where they are not computed yet.
    ``starts``: where each sequence's rows begin, (sequences + 1,).
    """

    def __init__(self, folder: str | Path, values: MappedArray, starts: MappedArray):
        self.folder, self.values, self.starts = Path(folder), values, starts
        self.log: AppendedFile | None = None

    @classmethod
    def create(cls, folder: str | Path, counts: np.ndarray, classes: int) -> TeacherLogits:
        """Create files in ``folder`` for sequences with ``counts`` (N,) rows of logits, none of them computed."""
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
        """The logits that an interrupted run left in ``folder``; the others are not computed yet.

        All processes share the values. Each also appends what it computes to a file of its own, which the next run
        replays: the shared file cannot be trusted after a crash, because its pages reach the disk in any order.
        """
        with launch.main_process_first():
            if launch.rank() == 0:
                cls.create(folder, counts, classes).close()
            logits = cls.load(folder, mode="r+")
        logits.log = AppendedFile(_log(folder, launch.rank()))
        logits._replay(logits.log)
        return logits

    @classmethod
    def load(cls, folder: str | Path, mode: Literal["r", "r+"] = "r") -> TeacherLogits:
        return cls(folder, *(MappedArray.open(Path(folder, f"{name}.npy"), mode=mode) for name in ("values", "starts")))

    @classmethod
    def load_for(cls, folder: str | Path, counts: np.ndarray, classes: int) -> TeacherLogits:
        """The logits in ``folder``. Raises UserError unless they are those of sequences with ``counts`` (N,) rows."""
        try:
            logits = cls.load(folder)
            rows, fits = int(logits.starts[-1:][0]), logits.has_counts(counts)
        except (ValueError, EOFError, IndexError):
            fits = False
        if not fits or logits.values.shape != (rows, classes):
            raise UserError(
                f"{folder} is damaged, or of other rows than data/<task>/augmented and unlabelled: run `dvc repro`,"
                " which computes it again"
            )
        return logits

    def __len__(self) -> int:
        return len(self.starts) - 1

    def has_counts(self, counts: np.ndarray) -> bool:
        """Whether the sequences are as many as ``counts`` (N,), with as many rows of logits each."""
        begins = range(0, len(counts), SEQUENCES_PER_BLOCK)
        parts = ((self.starts[begin : begin + SEQUENCES_PER_BLOCK + 1], counts[begin:]) for begin in begins)
        return len(self) == len(counts) and all(
            np.array_equal(np.diff(starts), expected[:SEQUENCES_PER_BLOCK]) for starts, expected in parts
        )

    def _replay(self, log: AppendedFile) -> None:
        log.file.seek(0)
        while head := log.file.read(4):
            count = int(np.frombuffer(head, np.int32)[0])
            sequences = np.frombuffer(log.file.read(4 * count), np.int32)
            rows, _ = self._rows(sequences)
            values = np.frombuffer(log.file.read(len(rows) * self.values.row_bytes), np.float32)
            self.values[rows] = values.reshape(len(rows), -1)

    def commit(self) -> None:
        """Make everything put so far survive an interruption."""
        if self.log:
            self.log.commit()

    def files(self) -> list[Path]:
        """The files, of all processes, from which an interrupted run resumes."""
        return [_log(self.folder, number) for number in range(launch.world_size())] if self.log else []

    def known(self, sequences: np.ndarray) -> bool:
        """Whether the logits of all of these sequences are computed."""
        return not np.isnan(self.values[self._rows(sequences)[0]]).any()

    def known_sequences(self) -> np.ndarray:
        """Whether any logits of a sequence are known, or it has none, (sequences,)."""
        found = np.zeros(len(self), dtype=bool)
        for begin in range(0, len(self), SEQUENCES_PER_BLOCK):
            starts = self.starts[begin : begin + SEQUENCES_PER_BLOCK + 1]
            known = ~np.isnan(self.values[starts[0] : starts[-1]]).any(axis=1)
            sums = np.concatenate([[0], np.cumsum(known)])[starts - starts[0]]
            found[begin : begin + SEQUENCES_PER_BLOCK] = (np.diff(sums) > 0) | (np.diff(starts) == 0)
        return found

    def put(self, sequences: np.ndarray, logits: Tensor, mask: Tensor) -> None:
        """Write the logits (B, P, C) of a batch of sequences, at the positions of the mask (B, P)."""
        chosen = mask.cpu().numpy()
        rows, counts = self._rows(sequences)
        found = chosen.sum(axis=-1)
        if (wrong := np.flatnonzero(found != counts)).size:
            first = wrong[0]
            raise ValueError(f"sequence {sequences[first]}: {found[first]} rows, expected {counts[first]}")
        values = logits.float().cpu().numpy()[chosen]
        self.values[rows] = values
        if self.log:
            numbers = np.array([len(sequences), *sequences], np.int32)
            self.log.append(numbers.tobytes() + values.tobytes())

    def batch(self, sequences: np.ndarray, mask: Tensor) -> Tensor:
        """(B, P, C): the logits at the positions of the mask (B, P), 0 elsewhere; NaN where they are unknown."""
        made = torch.zeros(*mask.shape, self.values.shape[1])
        made[mask] = torch.from_numpy(self.values[self._rows(sequences)[0]])
        return made

    def _rows(self, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The row numbers of these sequences' logits, and how many rows each sequence has."""
        sequences = np.asarray(sequences, dtype=np.int64)
        begins = self.starts[sequences]
        counts = self.starts[sequences + 1] - begins
        ends = np.cumsum(counts)
        return np.repeat(begins - (ends - counts), counts) + np.arange(ends[-1]), counts

    def save(self, folder: Path) -> None:
        for name in ("values", "starts"):
            shutil.copyfile(self.folder / f"{name}.npy", folder / f"{name}.npy")

    def close(self) -> None:
        for file in (self.values, self.starts, self.log):
            if file is not None:
                file.close()


def put_known(logits: TeacherLogits, known: KnownLogits, rows: Iterable[Row]) -> None:
    """Write the logits of the rows, one sequence each, that a teacher's file has."""
    count = total = 0
    for number, row in enumerate(rows):
        total += 1
        found = known.of(row)
        if found is not None:
            count += 1
            logits.put(np.array([number]), torch.from_numpy(np.float32(found))[None, None], torch.tensor([[True]]))
    log(f"the file of predictions has {count} of the {total} rows to learn from; the others are left out")


def save_mean(several: list[TeacherLogits], folder: Path) -> None:
    """Save the mean of the teachers' logits for each row, without the teachers that do not know the row."""
    first, *others = several
    if others:
        for begin in range(0, len(first.values), SEQUENCES_PER_BLOCK):
            block = slice(begin, begin + SEQUENCES_PER_BLOCK)
            values = np.stack([logits.values[block] for logits in several])
            known = ~np.isnan(values)
            with np.errstate(invalid="ignore"):  # NaN where no teacher knows a row
                first.values[block] = np.where(known, values, 0).sum(axis=0) / known.sum(axis=0)
    first.save(folder)


def _log(folder: str | Path, process: int) -> Path:
    return Path(folder, f"logits-{process}.bin")


def fill(
    logits: TeacherLogits,
    teacher: PreTrainedModel,
    task: Task,
    data: EncodedRows,
    tokenizer,
    numerics: Numerics,
    numbers: np.ndarray | None = None,
    reading: SecondReading | None = None,
) -> None:
    """Compute the teacher's logits of the sequences ``numbers`` of ``data``, in ascending order; by default of all.

    reading: ``data`` as the teacher's own tokenizer reads it; None if that is ``tokenizer``.

    The last digits of the logits depend on the batch: a resumed run must get the same ``numbers`` as the interrupted
    run.
    """
    launch.wait()
    numbers = np.arange(len(data), dtype=np.int32) if numbers is None else numbers
    numbers = numbers[data.logit_counts()[numbers] > 0]
    if not len(numbers):
        return
    log(f"computing the teacher's logits of {len(numbers)} rows")
    to_inference(teacher, numerics.precision, launch.device())
    bar = tqdm(total=len(numbers) // launch.world_size(), desc="teacher", unit="row", disable=launch.rank() > 0)
    compute: Any = partial(reading.class_logits, task) if reading else class_logits
    with bar, pytorch_forward(task, teacher, numerics.precision) as forward:
        committed = time.monotonic()
        for block in _blocks(numbers):
            for found in compute(forward, data, tokenizer, block, progress=bar, skip=logits.known):
                logits.put(*found)
                if time.monotonic() - committed > SECONDS_BETWEEN_COMMITS:
                    logits.commit()
                    committed = time.monotonic()
    launch.wait()


def _blocks(numbers: np.ndarray) -> list[np.ndarray]:
    """Split ascending numbers into blocks whose sequences lie close together in the files."""
    begins = range(SEQUENCES_PER_BLOCK, int(numbers[-1]) + 1, SEQUENCES_PER_BLOCK)
    return np.split(numbers, np.searchsorted(numbers, begins))
