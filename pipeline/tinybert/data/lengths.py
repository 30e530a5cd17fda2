"""Statistics of row lengths in word pieces, for `prepare --check`."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from pipeline.tinybert.core.log import log, summed_counts
from pipeline.tinybert.data.rows import Row, blocks

if TYPE_CHECKING:
    from pipeline.tinybert.tasks import Task

UNLIMITED = 1_000_000  # word-pieces
COUNTED = 100_000  # characters of a text, or words of a sentence; what follows no model reads
BLOCK = 256  # rows


def log_lengths(task: Task, parts: dict[str, list[Row]], tokenizer) -> None:
    """Log for each split how long its rows are without truncation, and how many rows would be truncated."""
    unlimited_task, unlimited_tokenizer = copy.copy(task), copy.deepcopy(tokenizer)
    unlimited_task.max_length = unlimited_tokenizer.model_max_length = UNLIMITED
    limit = min(task.max_length, tokenizer.model_max_length)
    if limit < task.max_length:
        log(f"max_length: {task.max_length}: the model takes {limit} word-pieces: set the task's to that or less")
    for name, rows in parts.items():
        if not rows:
            continue
        with summed_counts():
            lengths = np.array(
                [
                    len(ids)
                    for block in blocks(rows, BLOCK)
                    for ids in unlimited_task.encode([*map(_shortened, block)], unlimited_tokenizer)["input_ids"]
                ]
            )
        log(
            f"{name}: word-pieces per row: median {np.median(lengths):.0f}, 95th percentile"
            f" {np.percentile(lengths, 95):.0f}, maximum {lengths.max()}; {int((lengths > limit).sum())} of"
            f" {len(lengths)} are longer than max_length, {limit}"
        )
        if cut := sum(_shortened(row) != row for row in rows):
            log(f"{name}: {cut} of {len(rows)} rows are longer than {COUNTED} characters: counted up to there")


def _shortened(row: Row) -> Row:
    return {name: value[:COUNTED] if isinstance(value, str | list) else value for name, value in row.items()}
