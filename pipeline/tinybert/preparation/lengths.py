"""Statistics of rows in word pieces: their lengths, and how many word pieces are unknown."""

import copy
from collections.abc import Sequence

import numpy as np

from pipeline.tinybert.core.log import log, summed_counts
from pipeline.tinybert.data.rows import Row, blocks
from pipeline.tinybert.models.unread_words import count_unread
from pipeline.tinybert.tasks import Task

UNLIMITED = 1_000_000  # word pieces
COUNTED = 100_000  # characters of a text, or words of a sentence; no model reads further
BLOCK = 256  # rows
MANY_UNKNOWN, MANY_LETTERS = 5, 25  # percent


def log_lengths(task: Task, parts: dict[str, list[Row]], tokenizer) -> None:
    """Log for each split how long its rows are without truncation, and how many rows would be truncated."""
    unlimited_task, unlimited_tokenizer = copy.copy(task), copy.deepcopy(tokenizer)
    unlimited_task.max_length = unlimited_tokenizer.model_max_length = UNLIMITED
    limit = min(task.max_length, tokenizer.model_max_length)
    if limit < task.max_length:
        log(f"max_length: {task.max_length}: the model takes {limit} word pieces: set the task's to that or less")
    for name, rows in parts.items():
        if not rows:
            continue
        with summed_counts():
            shortened = map(_shortened, rows)
            parts_of = [
                _measured(unlimited_task.encode(block, unlimited_tokenizer)["input_ids"], tokenizer)
                for block in blocks(shortened, BLOCK)
            ]
        lengths, pieces, unknown, letters = (np.concatenate(values) for values in zip(*parts_of, strict=True))
        percent, percent_letters = (100 * found.sum() / max(pieces.sum(), 1) for found in (unknown, letters))
        log(
            f"{name}: word pieces per row: median {np.median(lengths):.0f}, 95th percentile"
            f" {np.percentile(lengths, 95):.0f}, maximum {lengths.max()}; {int((lengths > limit).sum())} of"
            f" {len(lengths)} are longer than max_length, {limit}; {percent:.1f} % of the word pieces are"
            f" unknown, {percent_letters:.1f} % are one letter of a longer word"
        )
        if percent > MANY_UNKNOWN or percent_letters > MANY_LETTERS:
            log(
                f"{name}: DOUBTFUL: the encoder knows few words of these texts (expected at most {MANY_UNKNOWN} %"
                f" unknown and {MANY_LETTERS} % of one letter): choose an encoder.checkpoint for their language"
            )
        if cut := sum(_shortened(row) != row for row in rows):
            log(f"{name}: {cut} of {len(rows)} rows are longer than {COUNTED} characters: counted up to there")


def _shortened(row: Row) -> Row:
    return {name: value[:COUNTED] if isinstance(value, str | list) else value for name, value in row.items()}


def _measured(sequences: Sequence[list[int]], tokenizer) -> tuple[np.ndarray, ...]:
    """The length of each sequence (N,), and the counts of ``count_unread``."""
    return np.array([len(ids) for ids in sequences]), *count_unread(sequences, tokenizer)
