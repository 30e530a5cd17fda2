"""Statistics of rows in word-pieces: their lengths, and how many word-pieces are unknown."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from pipeline.tinybert.core.log import log
from pipeline.tinybert.data.rows import Row

if TYPE_CHECKING:
    from pipeline.tinybert.tasks import Task

UNLIMITED = 1_000_000
MANY_UNKNOWN = 5  # percent


def log_lengths(task: Task, parts: dict[str, list[Row]], tokenizer) -> None:
    """Log for each split how long its rows are without truncation, and how many rows would be truncated."""
    unlimited_task, unlimited_tokenizer = copy.copy(task), copy.deepcopy(tokenizer)
    unlimited_task.max_length = unlimited_tokenizer.model_max_length = UNLIMITED
    limit = min(task.max_length, tokenizer.model_max_length)
    if limit < task.max_length:
        log(f"max_length: {task.max_length}: the model takes {limit} word-pieces: set the task's to that or less")
    for name, rows in parts.items():
        if rows:
            sequences = unlimited_task.encode(rows, unlimited_tokenizer)["input_ids"]
            lengths = np.array([len(ids) for ids in sequences])
            unknown, pieces = count_unknown(sequences, tokenizer)
            percent = 100 * unknown.sum() / max(pieces.sum(), 1)
            log(
                f"{name}: word-pieces per row: median {np.median(lengths):.0f}, 95th percentile"
                f" {np.percentile(lengths, 95):.0f}, maximum {lengths.max()}; {int((lengths > limit).sum())} of"
                f" {len(lengths)} are longer than max_length, {limit}; {percent:.1f} % of the word-pieces are unknown"
            )
            if percent > MANY_UNKNOWN:
                log(
                    f"{name}: DOUBTFUL: the model cannot read {percent:.1f} % of the word-pieces, expected less than"
                    f" {MANY_UNKNOWN} %: choose an encoder.checkpoint for the language of these texts"
                )


def count_unknown(sequences: Sequence[list[int]], tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """How many word-pieces of each sequence of ids are unknown, and how many there are, (N,) each.

    Special tokens do not count.
    """
    ids = np.fromiter(chain.from_iterable(sequences), dtype=np.int64)
    rows = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    unknown = ids == (-1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id)
    counted = unknown | ~np.isin(ids, tokenizer.all_special_ids)
    first, second = (np.bincount(rows[chosen], minlength=len(sequences)) for chosen in (unknown, counted))
    return first, second
