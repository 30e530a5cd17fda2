"""How many words of a text a tokenizer's vocabulary lacks."""

import functools
import re
from collections.abc import Sequence
from itertools import chain

import numpy as np

# In a WordPiece vocabulary: one letter inside a word, but no syllable or ideograph. In a byte-level one: one byte.
WORD_PIECE_LETTER = re.compile(r"##(?![\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3])[^\W\d_]")
BYTE_LEVEL_LETTER = re.compile("[\u00a1-\u0143]")


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
