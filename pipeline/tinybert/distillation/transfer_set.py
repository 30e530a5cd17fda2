"""The transfer set: the rows that both distillation stages learn from, augmented rows first, then unlabelled ones.

There may be millions, so rows are streamed from file to file, block by block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.tinybert.data import rows as rows_on_disk
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import alignment, inference
from pipeline.tinybert.models.alignment import SecondReading
from pipeline.tinybert.models.encoded_rows import Columns, EncodedRows, load_or_write

if TYPE_CHECKING:
    from pipeline.tinybert.tasks import Task

ROWS_PER_BLOCK = 1000


def rows(task: Task, name: str) -> Iterator[Row]:
    """All rows, without labels: the teacher's outputs are the only targets."""
    augmented, unlabelled = _path("augmented", name), _path("unlabelled", name)
    found = chain(rows_on_disk.read(augmented), rows_on_disk.read(unlabelled, may_be_empty=True))
    return without_labels(task, found)


def labelled_rows(task: Task, name: str, augmented: bool = True) -> Iterator[Row]:
    """The training rows and, if ``augmented``, their variants, with labels; not the new pairs, which have none."""
    found = rows_on_disk.read(_path("augmented", name))
    return (
        row for row in found if (augmented or not row["variant"]) and all(field in row for field in task.target_fields)
    )


def _path(part: str, name: str) -> Path:
    return Path("data", name, part, "rows.jsonl")


def without_labels(task: Task, rows: Iterable[Row]) -> Iterator[Row]:
    for row in rows:
        yield {key: value for key, value in row.items() if key not in task.target_fields}


def encode(
    task: Task, transfer_rows: Iterable[Row], tokenizer, folder: str | Path, augmented: bool = True
) -> EncodedRows:
    """Encode the rows into files in ``folder``, or load what an interrupted run encoded there.

    augmented: False leaves out variants and new pairs.
    """
    originals = Path(folder) / "originals.npy"  # whether each sequence comes from an original or unlabelled row, (N,)

    def encoded() -> Iterator[Columns]:
        is_original = [np.zeros(0, dtype=bool)]
        for block in rows_on_disk.blocks(transfer_rows, ROWS_PER_BLOCK):
            columns = inference.encode(task, block, tokenizer)
            is_original.append(np.array([not block[row].get("variant") for row in columns["example"]]))
            yield columns
        np.save(originals, np.concatenate(is_original))

    data = load_or_write(folder, encoded(), originals)
    return data if augmented else data.select(np.flatnonzero(np.load(originals)))


def read_again(task: Task, transfer_rows: Iterable[Row], tokenizer, other, folder: str | Path) -> SecondReading:
    """Encode what each sequence of ``encode`` has read with the tokenizer ``other``, into files in ``folder``."""
    blocks = rows_on_disk.blocks(transfer_rows, ROWS_PER_BLOCK)
    read = (alignment.read_again(task, block, tokenizer, other) for block in blocks)
    return SecondReading(load_or_write(folder, read), other)


def sample(data: EncodedRows, count: int | None, seed: int) -> EncodedRows:
    """``count`` sequences drawn without replacement; all sequences if ``count`` is None or larger."""
    if count is None or count >= len(data):
        return data
    return data.select(np.sort(np.random.default_rng(seed).permutation(len(data))[:count]))
