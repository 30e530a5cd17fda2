"""Where the word pieces of a sequence stand in its texts.

The word pieces of a sequence become spans on one line: the characters of the first text, then those of the second.
Special tokens get fixed spans between them, so that each overlaps only the same special token of another tokenizer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import BatchEncoding

TEXT = 1 << 32  # the length of a text on the line: no text is that long
CLASS_TOKEN = -2, -1
SEPARATOR = TEXT - 2, TEXT - 1  # between the texts
LAST_TOKENS = 3 * TEXT - 2, 3 * TEXT - 1


def spans(encoded: BatchEncoding, number: int, word_starts: list[int] | None = None) -> np.ndarray:
    """The span of each word piece of sequence ``number`` on the line, (S, 2), in order.

    ``encoded`` has offsets. ``word_starts``: if the text was given as words, where each begins, and where the last
    one's successor would: offsets count within a word.
    """
    parts, offsets = encoded.sequence_ids(number), np.array(encoded[number].offsets, dtype=np.int64).reshape(-1, 2)
    text_numbers = np.array([-1 if part is None else part for part in parts])
    if word_starts is not None:
        words = [-1 if word is None else word for word in encoded.word_ids(number)]
        starts = np.array([*word_starts, 0])  # the last entry is for special tokens
        ends = np.array([*(end - 1 for end in word_starts[1:]), 0, 0])  # words are joined by blanks
        offsets = np.minimum(offsets + starts[words][:, None], ends[words][:, None])
    on_line = offsets + TEXT * text_numbers[:, None]
    on_line[text_numbers < 0] = SEPARATOR
    on_line[max(np.flatnonzero(text_numbers >= 0), default=0) + 1 :] = LAST_TOKENS
    on_line[0] = CLASS_TOKEN
    return np.maximum.accumulate(on_line, axis=0)


def in_second_text(spans: np.ndarray) -> np.ndarray:
    """Which of the spans (S, 2) lie in the second text, (S,)."""
    return (spans[:, 0] >= TEXT) & (spans[:, 0] < 2 * TEXT - 2)
