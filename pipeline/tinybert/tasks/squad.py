"""SQuAD's answers: their forms in a file, their places in the passage, and their scores."""

import re
import string
from collections import Counter
from numbers import Integral
from typing import Any

import numpy as np
import regex

from pipeline.tinybert.data.cells import BadRecordError, value_in_text
from pipeline.tinybert.data.part_of_text import stripped_before
from pipeline.tinybert.data.rows import Row

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_ANSWER = ("", -1)  # text and start, as some tools write it
EXPECTED_ANSWERS = "answers: expected a list of objects with `text` and `answer_start`"
INVISIBLE = regex.compile(r"\p{Cf}")  # direction marks, zero-width characters, soft hyphens


def normalised(text: str) -> str:
    """SQuAD's normalisation (lower case, no punctuation, no articles, single spaces), and also without invisible
    characters, because two answers that look the same should count as the same.
    """
    return " ".join(ARTICLES.sub(" ", INVISIBLE.sub("", text.lower()).translate(PUNCTUATION)).split())


def exact_match(row: Row, predicted: str) -> float:
    """1 if the normalised prediction equals a reference answer, else 0."""
    return max(float(normalised(predicted) == normalised(text)) for text in _references(row))


def f1(row: Row, predicted: str) -> float:
    """The best word overlap (F1) with a reference answer. If a side has no words: 1 if both have none, else 0."""
    return max(_overlap(normalised(text).split(), normalised(predicted).split()) for text in _references(row))


def _references(row: Row) -> list[str]:
    """The reference answers with words left after normalisation; [""] if there are none, as in SQuAD's script."""
    return [answer["text"] for answer in row["answers"] if normalised(answer["text"])] or [""]


def _overlap(reference: list[str], predicted: list[str]) -> float:
    if not reference or not predicted:
        return float(reference == predicted)
    common = sum((Counter(reference) & Counter(predicted)).values())
    return 2 * common / (len(reference) + len(predicted))


def answers_of(cell: Any) -> list[tuple[str, int]]:
    """Parse SQuAD's forms of answers: a list of objects with ``text`` and ``answer_start``, one such object, or one
    object with a list of each; or a text that holds one of them, as pandas writes it to CSV. Returns (text, start)
    pairs.
    """
    if isinstance(cell, str):
        cell = value_in_text(cell)
    if isinstance(cell, dict) and isinstance(cell.get("text"), str):
        cell = [cell]
    if isinstance(cell, dict):
        if {"text", "answer_start"} <= cell.keys() and cell["text"] is None and cell["answer_start"] is None:
            return []  # some tools write null for an empty list
        texts, starts = (_sequence(cell.get(key)) for key in ("text", "answer_start"))
        complete, pairs = len(texts) == len(starts), list(zip(texts, starts, strict=False))
    else:
        found = _sequence(cell)
        complete = all(isinstance(answer, dict) for answer in found)
        pairs = [(answer.get("text"), answer.get("answer_start")) for answer in found if complete]
    if not complete:
        raise BadRecordError(EXPECTED_ANSWERS)
    pairs = [pair for pair in pairs if pair != NO_ANSWER]
    for text, start in pairs:
        if not isinstance(text, str) or not INVISIBLE.sub("", text).strip():
            raise BadRecordError("an answer is an empty text")
        if not isinstance(start, Integral):
            raise BadRecordError(
                f"answer_start of '{text}' is {start!r}: expected a whole number", "an answer_start is no whole number"
            )
    return [(text.strip(), int(start) + stripped_before(text)) for text, start in pairs]


def _sequence(cell: Any) -> list:
    if not isinstance(cell, list | tuple | np.ndarray):
        raise BadRecordError(EXPECTED_ANSWERS)
    return list(cell)
