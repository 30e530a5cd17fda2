"""The transfer set, the rows that both distillation stages learn from: augmented ones, then unlabelled ones.

There may be millions of them: they pass from file to file, and memory holds a few at a time.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from pipeline.tinybert.core import launch
from pipeline.tinybert.core.log import summed_counts
from pipeline.tinybert.data import rows as rows_on_disk
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models.sequences import Sequences, SequencesWriter
from pipeline.tinybert.tasks import Task
from pipeline.tinybert.training import fine_tuning

ROWS_AT_ONCE = 1000


def rows(task: Task, name: str) -> Iterator[Row]:
    """Without labels: the teacher's outputs are the only targets."""
    paths = _path("augmented", name), _path("unlabelled", name)
    return without_targets(task, chain.from_iterable(rows_on_disk.read(path) for path in paths))


def labelled_rows(name: str, augmented: bool = True) -> Iterator[Row]:
    """Those of train and, where ``augmented``, their variants, with labels."""
    return (row for row in rows_on_disk.read(_path("augmented", name)) if augmented or not row["variant"])


def _path(part: str, name: str) -> Path:
    return Path("data", name, part, "rows.jsonl")


def without_targets(task: Task, rows: Iterable[Row]) -> Iterator[Row]:
    for row in rows:
        yield {key: value for key, value in row.items() if key not in task.targets}


def encode(
    task: Task, transfer_rows: Iterable[Row], tokenizer, folder: str | Path, augmented: bool = True
) -> Sequences:
    """Model inputs, ``kept`` and ``number``, which leads to a sequence's teacher logits; in files of ``folder``.

    augmented: with the variants of rows, not only the rows as they are.
    """
    originals = Path(folder) / "originals.npy"
    with launch.main_process_first():  # it encodes, the others find what it has left
        data = Sequences.kept(folder) or _encoded(task, transfer_rows, tokenizer, folder, originals)
    return data if augmented else data.select(np.load(originals))


def _encoded(task: Task, transfer_rows: Iterable[Row], tokenizer, folder: str | Path, originals: Path) -> Sequences:
    """Of all rows; beside them, in the file ``originals``, the numbers of the sequences that are of no variant."""
    writer, found = SequencesWriter(folder), [np.zeros(0, dtype=np.int32)]
    with summed_counts():
        for block in rows_on_disk.blocks(transfer_rows, ROWS_AT_ONCE):
            columns = fine_tuning.columns(task, block, tokenizer)
            original = [not block[row].get("variant") for row in columns["example"]]
            found.append(len(writer) + np.flatnonzero(original).astype(np.int32))
            writer.add(columns)
    np.save(originals, np.concatenate(found))
    return writer.finished()


def sample(data: Sequences, count: int | None, seed: int) -> Sequences:
    """``count`` sequences drawn without replacement; all, where it is None or more than there are."""
    if count is None or count >= len(data):
        return data
    return data.select(np.sort(np.random.default_rng(seed).permutation(len(data))[:count]))


def student_with_head(task: Task, name: str, seed: int):
    return task.load_model(Path("models", name, "general_student"), seed)
