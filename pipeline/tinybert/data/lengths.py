"""Statistics of rows in word pieces: their lengths, and how many word pieces are unknown."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from pipeline.tinybert.core.log import log, summed_counts
from pipeline.tinybert.data.rows import Row, blocks

if TYPE_CHECKING:
    from pipeline.tinybert.tasks import Task

UNLIMITED = 1_000_000  # word pieces
COUNTED = 100_000  # characters of a text, or words of a sentence; no model reads further
BLOCK = 256  # rows
MANY_UNKNOWN, MANY_LETTERS = 5, 25  # percent
# In a WordPiece vocabulary: one letter inside a word, but no syllable or ideograph. In a byte-level one: one byte.
WORD_PIECE_LETTER = re.compile(r"##(?![\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3])[^\W\d_]")
BYTE_LEVEL_LETTER = re.compile("[\u00a1-\u0143]")


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


def count_unread(sequences: Sequence[list[int]], tokenizer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three counts for each sequence of ids, (N,) each: all word pieces, unknown ones, and single letters of a word.

    Special tokens do not count. An encoder for another language with the same alphabet knows the letters of a text, but
    not its words.
    """
    ids = np.fromiter(chain.from_iterable(sequences), dtype=np.int64)
    rows = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    unknown = ids == (-1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id)
    letters = np.isin(ids, _letters(tokenizer))
    words = unknown | ~np.isin(ids, tokenizer.all_special_ids)
    first, second, third = (np.bincount(rows[found], minlength=len(sequences)) for found in (words, unknown, letters))
    return first, second, third


@functools.lru_cache(maxsize=4)  # `predict` asks for each text
def _letters(tokenizer) -> list[int]:
    """The ids of the word pieces that are one letter of a word."""
    numbers = tokenizer.get_vocab()
    letter = WORD_PIECE_LETTER if any(piece.startswith("##") for piece in numbers) else BYTE_LEVEL_LETTER
    return [number for piece, number in numbers.items() if letter.fullmatch(piece)]
