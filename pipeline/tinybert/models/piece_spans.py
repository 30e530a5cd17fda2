"""Where the word pieces of a sequence stand in its texts.

The word pieces of a sequence become spans on one line: its first text's characters come first, then its second text's.
The special tokens before, between and behind the texts are spans there too, so that they overlap their like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import BatchEncoding

TEXT = 1 << 32  # the length of a text on the line: no text is that long


def spans(encoded: BatchEncoding, number: int, word_starts: list[int] | None = None) -> np.ndarray:
    """The span of each word piece of sequence ``number`` on the line, (S, 2), in order.

    ``encoded`` has offsets. ``word_starts``: if the text was given as words, where each begins, and where the last
    one's successor would: offsets count within a word.
    """
    parts, offsets = encoded.sequence_ids(number), np.array(encoded[number].offsets, dtype=np.int64).reshape(-1, 2)
    text = np.array([-1 if part is None else part for part in parts])
    if word_starts is not None:
        words = [-1 if word is None else word for word in encoded.word_ids(number)]
        starts = np.array([*word_starts, 0])  # the last entry is for special tokens
        ends = np.array([*(end - 1 for end in word_starts[1:]), 0, 0])  # words are joined by blanks
        offsets = np.minimum(offsets + starts[words][:, None], ends[words][:, None])
    made = offsets + TEXT * text[:, None]
    made[text < 0] = TEXT - 2, TEXT - 1  # separators between the texts
    made[max(np.flatnonzero(text >= 0), default=0) + 1 :] = 3 * TEXT - 2, 3 * TEXT - 1
    made[0] = -2, -1  # the class token
    return np.maximum.accumulate(made, axis=0)
