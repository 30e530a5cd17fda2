"""Find texts of test that are nearly equal to texts of train. They make scores too high, and an exact comparison misses
them.

Two texts are nearly equal if their sets of words have a Jaccard index of at least 0.8; case, punctuation and digits do
not count. In a pair, both texts must be nearly equal, in either order. Prefix filtering (Chaudhuri et al., 2006;
Bayardo et al., 2007) finds the candidates: two such sets share one of the rarest words of each, so an index of these
words finds all of them.

Texts of few different words are nearly equal only if they have the same words and digits in the same order.
"""

from collections import Counter
from collections.abc import Iterator

import regex

from pipeline.tinybert.core.log import first_ten, log
from pipeline.tinybert.data import words
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.tasks import Task
from pipeline.tinybert.tasks.texts import FIELDS

LEAST_SHARED = 80  # percent: the words in both texts as a share of those in either
FEWEST_WORDS = 8  # different words; a text of fewer must have the same ones
COMPARED = 2_000  # characters at the start of a text; a model reads little more
MANY_SHARED = 0.2  # of the pairs of test
MOST_COMPARISONS = 5_000_000  # take some seconds
# Where no blanks stand between words, each character is one.
WORD = regex.compile(rf"{words.UNSPACED.pattern}|{words.WORD.pattern}")
WORD_OR_NUMBER = regex.compile(rf"{WORD.pattern}|\p{{N}}+")
Sequence = tuple[tuple[str, ...], ...]  # of each text in the row
Words = frozenset[tuple[int, str]]  # (number of the text in the row, word)


def log_near_duplicates(task: Task, test: str, rows: list[Row], train: list[Row]) -> None:
    """Log how many rows of a test set are nearly equal to a row of train, and the first ten with both positions."""
    pairs: dict[int, Row] = {}  # number of the test row → the row of train
    tested = [words_of(_texts(task, row)) for row in rows]
    count = Counter(word for found in tested for word in found)
    index: dict[tuple[int, str], list[int]] = {}
    few: dict[Sequence, list[int]] = {}  # words of a short test row → its numbers
    for number, found in enumerate(tested):
        if not found:
            few.setdefault(_sequence(_texts(task, rows[number])), []).append(number)
        for word in _rarest(found, count):
            index.setdefault(word, []).append(number)
    compared = 0
    for row, texts in _in_each_order(task, train):
        found = words_of(texts)
        if not found:
            for number in few.get(_sequence(texts), ()):
                pairs.setdefault(number, row)
        for number in {number for word in _rarest(found, count) for number in index.get(word, ())} - pairs.keys():
            compared += 1
            if _are_near(tested[number], found):
                pairs[number] = row
        if compared > MOST_COMPARISONS:
            log(f"{test}: near-duplicates in train: not all rows are compared, as the texts are too many and too alike")
            break
    if pairs:
        shown = [f"{rows[number]['where']} and {pairs[number]['where']}" for number in sorted(pairs)]
        log(
            f"{test}: {len(pairs)} of {len(rows)} texts nearly equal a text of train, so its scores may be too high:"
            " name a file of other texts as test, or name a column that tells which rows belong together"
            f" (`source.group`). These are: {first_ten(shown)}"
        )


def log_shared_texts(test: str, rows: list[Row], train: list[Row]) -> None:
    """Log how many pairs of a test set share a text with a pair of train, if they are many."""
    known = {row[field] for row in train for field in FIELDS}
    shared = sum(any(row[field] in known for field in FIELDS) for row in rows)
    if rows and shared >= MANY_SHARED * len(rows):
        log(
            f"{test}: {shared} of {len(rows)} pairs have one text in common with a pair of train. If the model will"
            " read new texts only, scores are too high: name a column that tells which rows belong together"
            " (`source.group`), such as that of the text"
        )


def words_of(texts: list[str]) -> Words:
    """The different words of a row's texts; none if they are too few to compare."""
    found = frozenset((number, word) for number, text in enumerate(texts) for word in WORD.findall(text))
    return found if len(found) >= FEWEST_WORDS else frozenset()


def _texts(task: Task, row: Row) -> list[str]:
    key = task.duplicate_key(row)
    return [text[:COMPARED].casefold() for text in (key if isinstance(key, tuple) else (key,))]


def _in_each_order(task: Task, rows: list[Row]) -> Iterator[tuple[Row, list[str]]]:
    """Each row with its texts; a pair twice, as its texts may be in the other order in test."""
    for row in rows:
        texts = _texts(task, row)
        yield row, texts
        if task.is_pair(row):
            yield row, texts[::-1]


def _sequence(texts: list[str]) -> Sequence:
    """The words and numbers of a row's texts, in order; the texts themselves where they are marks only."""
    return tuple(tuple(WORD_OR_NUMBER.findall(text)) or (text,) for text in texts)


def _rarest(found: Words, count: Counter) -> list[tuple[int, str]]:
    """The words of a set that are rarest in test. Any nearly equal set shares at least one of them."""
    length = len(found) * (100 - LEAST_SHARED) // 100 + 1
    return sorted(found, key=lambda word: (count[word], word))[:length]


def _are_near(one: Words, other: Words) -> bool:
    shared = one & other
    if 100 * len(shared) < LEAST_SHARED * (len(one) + len(other) - len(shared)):
        return False
    both, either = (Counter(number for number, _ in found) for found in (shared, one | other))
    return all(100 * both[number] >= LEAST_SHARED * size for number, size in either.items())
