"""Statistics of row lengths in word pieces, for `prepare --check`."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from pipeline.tinybert.core.log import log
from pipeline.tinybert.data.rows import Row

if TYPE_CHECKING:
    from pipeline.tinybert.tasks import Task

UNLIMITED = 1_000_000


def log_lengths(task: Task, parts: dict[str, list[Row]], tokenizer) -> None:
    """Log for each split how long its rows are without truncation, and how many rows would be truncated."""
    unlimited_task, unlimited_tokenizer = copy.copy(task), copy.deepcopy(tokenizer)
    unlimited_task.max_length = unlimited_tokenizer.model_max_length = UNLIMITED
    limit = min(task.max_length, tokenizer.model_max_length)
    if limit < task.max_length:
        log(f"max_length: {task.max_length}: the model takes {limit} word-pieces: set the task's to that or less")
    for name, rows in parts.items():
        if rows:
            lengths = np.array([len(ids) for ids in unlimited_task.encode(rows, unlimited_tokenizer)["input_ids"]])
            log(
                f"{name}: word-pieces per row: median {np.median(lengths):.0f}, 95th percentile"
                f" {np.percentile(lengths, 95):.0f}, maximum {lengths.max()}; {int((lengths > limit).sum())} of"
                f" {len(lengths)} are longer than max_length, {limit}"
            )
