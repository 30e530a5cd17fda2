"""New pairs of texts, for tasks whose rows are pairs: few rows hold few of the pairs that their texts can make."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np

from pipeline.tinybert.data import rows as rows_on_disk
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.tasks import Task


def append(task: Task, path: Path, splits: Iterable[Path], wanted: int, seed: int) -> int:
    """Append up to ``wanted`` pairs to the augmented rows in ``path``; return their number.

    Up to half of them pair a variant with its original, the others pair texts of two rows drawn at random. Pairs that
    occur in the files of ``splits`` are dropped. The new pairs have no label: the teacher's outputs are their targets.
    """
    if not wanted or not task.is_pair(next(rows_on_disk.read(path))):
        return 0
    draw = np.random.default_rng(seed)
    chosen = draw.integers(rows_on_disk.count(path), size=(wanted, 2))
    held, originals = _rows(path, set(chosen.ravel().tolist()))
    made = (
        task.new_pair(held[one], originals[held[one]["id"]] if number % 2 else held[other])
        for number, (one, other) in enumerate(chosen.tolist())
    )
    distinct = {task.duplicate_key(row): row for row in made if row is not None}
    for row in chain.from_iterable(map(rows_on_disk.read, splits)):
        distinct.pop(task.duplicate_key(row), None)
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        for number, row in enumerate(distinct.values()):
            file.write(rows_on_disk.line({"id": f"pair-{number}", **row, "variant": 1}))
    return len(distinct)


def _rows(path: Path, numbers: set[int]) -> tuple[dict[int, Row], dict[str, Row]]:
    """The rows of these numbers, and their originals by id. An original comes before its variants."""
    held: dict[int, Row] = {}
    originals: dict[str, Row] = {}
    original: Row = {}
    for number, row in enumerate(rows_on_disk.read(path)):
        if not row["variant"]:
            original = row
        if number in numbers:
            held[number], originals[row["id"]] = row, original
    return held, originals
