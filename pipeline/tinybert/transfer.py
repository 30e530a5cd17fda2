"""The transfer set, the rows that both distillation stages learn from: augmented ones, then unlabelled ones."""

from itertools import chain
from pathlib import Path

import datasets
import numpy as np

from pipeline.tinybert import rows as rows_on_disk
from pipeline.tinybert import training
from pipeline.tinybert.rows import Row
from pipeline.tinybert.tasks import Task


def rows(task: Task, name: str) -> list[Row]:
    """Without labels: the teacher's outputs are the only targets."""
    paths = Path("data", name, "augmented", "rows.jsonl"), Path("data", name, "unlabelled", "rows.jsonl")
    return [
        {key: value for key, value in row.items() if key not in task.targets}
        for row in chain.from_iterable(rows_on_disk.read(path) for path in paths)
    ]


def encode(task: Task, transfer_rows: list[Row], tokenizer, augmented: bool = True) -> datasets.Dataset:
    """Model inputs, ``length``, ``kept`` and ``number``, which leads to a sequence's teacher logits.

    augmented: with the variants of rows, not only the rows as they are.
    """
    data = training.encode(task, transfer_rows, tokenizer)
    data = data.add_column("number", np.arange(len(data)))
    if not augmented:
        row_of = data["example"]
        data = data.select([number for number, row in enumerate(row_of) if not transfer_rows[row].get("variant")])
    return data.remove_columns([name for name in ("spans", "example") if name in data.column_names])


def counts(data: datasets.Dataset) -> list[int]:
    """How many rows of class logits count in each sequence."""
    return [sum(kept) for kept in data["kept"]]


def sample(data: datasets.Dataset, count: int | None, seed: int) -> datasets.Dataset:
    """``count`` sequences drawn without replacement; all, where it is None or more than there are."""
    if count is None or count >= len(data):
        return data
    return data.select(np.sort(np.random.default_rng(seed).permutation(len(data))[:count]))


def student_with_head(task: Task, name: str, seed: int):
    return task.load_model(Path("models", name, "general_student"), seed)
