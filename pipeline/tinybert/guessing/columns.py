"""What the columns of a file hold: text, classes, numbers, lists."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.data.cells import value_in_text

MAX_CLASSES = 200
ROWS_OF_A_CLASS = 3  # on average, at least
MIN_SHARE_OF_CELLS = 0.9  # this share of the cells decides what a column holds; `prepare` names the rows of the others
LABEL = ("label", "class", "category", "target", "sentiment", "intent", "topic", "gold", "stars", "rating")
# What describes a row, and is no label unless --label names it.
NO_LABEL = ("annotator", "annotator_id", "lang", "language", "locale", "source", "origin", "year", "month", "day",
            "date", "split", "fold", "user", "author", "version")  # fmt: skip
CJK = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")  # written without spaces between words
PARTNERS = ({"premise", "hypothesis"}, {"question", "sentence"}, {"question", "passage"}, {"query", "passage"},
            {"query", "document"}, {"text", "pair"}, {"source", "target"}, {"claim", "evidence"},
            {"question", "answer"}, {"headline", "articlebody"})  # fmt: skip
TIME = re.compile(r"\s*\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d?([.,]\d+)?)?\s*(Z|UTC|[+-]\d\d:?\d\d)?\s*")
NUMBERED = re.compile(r"(.*?)[ _-]?(?:1|2|a|b|one|two|first|second)$", re.IGNORECASE)
WITH_COMMA = "numbers such as '{}': write them with a point and without %"
LOCALISED_NUMBER = re.compile(r"-?\d+(,\d+)? ?%?")
LISTS = (list, tuple, np.ndarray)
UNREADABLE_LIST = re.compile(r"\[.*\]", re.DOTALL)


class UnfitError(UserError):
    """The file has nothing that this kind of task needs."""


class Reason(NamedTuple):
    """The reason for a choice, which the user reads as "key: text". ``columns``: those that it says are not read."""

    key: str
    text: str
    columns: tuple[Any, ...] = ()


@dataclass
class Guess:
    """What a file suggests for a task's entry, and a reason for each choice. ``texts``: what the model reads."""

    source: dict[str, Any]
    reasons: list[Reason]
    texts: list[str]
    metric: str
    options: dict[str, Any] | None = None
    longest: int = 512  # the limit of max_length


class Columns:
    """The columns of records that all have the same keys.

    chosen: source key → column(s), as the user gave them. ``kind_is_given``: the user gave the kind too.
    """

    def __init__(self, records: list[dict], chosen: dict[str, Any], kind_is_given: bool, group: Any = None):
        lists = parse_lists_in_text(records)
        self._written = lists.keys()
        self.records = [row | {name: lists[name][number] for name in lists} for number, row in enumerate(records)]
        self.names, self.chosen, self.kind_is_given, self.group = list(records[0]), chosen, kind_is_given, group

    def cells(self, column: Any) -> list:
        """The cells of a column that are not empty."""
        return self._cells[column]

    @cached_property
    def _cells(self) -> dict[Any, list]:
        return {name: [cell for row in self.records if not is_empty(cell := row[name])] for name in self.names}

    @cached_property
    def counts(self) -> dict[Any, Counter]:
        """Column → how often each value occurs; without the columns of lists and objects."""
        found = {name: self._labels_in_lists(name) or self.cells(name) for name in self.names}
        return {
            name: Counter(str(cell).strip() for cell in cells)
            for name, cells in found.items()
            if cells and not any(isinstance(cell, (*LISTS, dict)) for cell in cells)
        }

    def _labels_in_lists(self, column: Any) -> list[str]:
        """The labels of a column of labels in which each cell is a list with one label, as some tools write it."""
        cells = self.cells(column) if str(column).lower() in LABEL and column not in self._written else []
        if not all(is_list(cell, str) and len(cell) <= 1 for cell in cells) or not nearly_all(len, cells):
            return []
        return [cell[0] for cell in cells if len(cell)]  # `prepare` names the rows without a label

    def numbers(self, column: Any) -> list[float]:
        """A column's distinct values, if all of them are numbers; else nothing."""
        values = self.counts.get(column, ())
        return [float(value) for value in values] if all(map(is_number, values)) else []

    def numbers_of_mostly_numeric(self, column: Any) -> list[float]:
        """A column's distinct numbers, if most cells are numbers; else nothing."""
        counts = self.counts.get(column, Counter())
        numbers = [float(value) for value in counts if is_number(value)]
        return numbers if nearly_all(is_number, list(counts.elements())) else []

    def localised_number(self, column: Any) -> str | None:
        """A number with a comma for the point, or with %, if the column holds nothing but such and whole numbers."""
        counts = self.counts.get(column, Counter())
        written = [value for value in counts if not is_number(value)]
        return written[0] if written and all(map(LOCALISED_NUMBER.fullmatch, counts)) else None

    def class_columns(self) -> list[Any]:
        """Columns of few distinct values, each in several rows. A numeric column that merely encodes a text column
        (0 = neg, 1 = pos) is left out.
        """
        found = []
        for name, counts in self.counts.items():
            if not has_fractions(self.numbers(name)) and 2 <= len(counts) <= min(
                MAX_CLASSES, len(self.records) / ROWS_OF_A_CLASS
            ):
                found.append(name)
        numbers = [name for name in found if self.numbers(name)]
        of_texts = {self._partition_of_rows(name) for name in found if name not in numbers}
        return [name for name in found if name not in numbers or self._partition_of_rows(name) not in of_texts]

    def _partition_of_rows(self, column: Any) -> tuple[int, ...]:
        """For each row, the number of its value by first occurrence. Equal for columns that encode each other."""
        numbers: dict[str, int] = {}
        return tuple(numbers.setdefault(str(row[column]), len(numbers)) for row in self.records)

    def text_columns(self, without: Iterable[Any] = ()) -> list[Any]:
        """Columns of texts of several words, the longest texts first."""
        found = {}
        for name in self.counts:
            cells = self.cells(name)
            texts = [cell for cell in cells if isinstance(cell, str)]
            if name not in without and len(texts) >= MIN_SHARE_OF_CELLS * len(cells):
                of_several_words = sum(" " in text.strip() or CJK.search(text) is not None for text in texts)
                are_times = texts and all(map(TIME.fullmatch, texts))
                if (3 * of_several_words > len(texts) and not are_times) or (texts and name == "text"):
                    found[name] = np.mean([len(text) for text in texts])
        return sorted(found, key=lambda name: -found[name])

    def refuse_unreadable_lists(self, key: str, column: Any) -> None:
        """Raise UserError if a column holds lists in a form that cannot be read, such as numpy's."""
        values = list(self.counts.get(column, Counter()).elements())
        if nearly_all(UNREADABLE_LIST.fullmatch, values):
            raise UserError(
                f"{key}: column {quoted(column)} holds lists that cannot be read, such as {values[0][:50]}: write"
                ' commas between their values, as in ["a", "b"]'
            )

    def list_columns(self) -> list[Any]:
        """Columns of lists that are not all empty."""
        return [
            name
            for name in self.names
            if nearly_all(is_list, self.cells(name)) and any(is_list(cell) and len(cell) for cell in self.cells(name))
        ]

    def median_length(self, column: Any) -> float:
        return float(np.median([words(str(cell)) for cell in self.cells(column)]))

    def pick_column(self, key: str, candidates: list, names: Iterable[str], what: str) -> Any:
        """The only candidate, or the only one with such a name; else UserError."""
        best = named(candidates, *names) or candidates
        if len(best) == 1:
            return best[0]
        if not best:
            raise self.cannot_guess(key, f"no column holds {what}", UnfitError)
        raise self.cannot_guess(key, f"columns {', '.join(map(quoted, best))} hold {what}")

    def cannot_guess(self, key: str, why: str, kind: type[UserError] = UserError) -> UserError:
        return kind(f"{key}: {why}: give --{key} COLUMN (the columns are {', '.join(map(str, self.names))})")


def parse_lists_in_text(records: list[dict]) -> dict[Any, list]:
    """Column → its cells, of the columns that hold lists, or answers, written as text. Other cells stay as they are."""
    found = {}
    for name in records[0]:
        cells = [row[name] for row in records]
        read = [_list_or_answers(cell) for cell in cells]
        of_written = [value for cell, value in zip(cells, read, strict=True) if not is_empty(cell)]
        if nearly_all(lambda value: value is not None, of_written):
            found[name] = [cell if value is None else value for cell, value in zip(cells, read, strict=True)]
    return found


def _list_or_answers(cell: Any) -> list | dict | None:
    value = value_in_text(cell) if isinstance(cell, str) else None
    is_answers = isinstance(value, dict) and value.keys() >= {"text", "answer_start"}
    return value if isinstance(value, list) or is_answers else None


def is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, Real) and cell != cell) or (isinstance(cell, str) and not cell.strip())


def nearly_all(fits: Callable[[Any], object], cells: list) -> bool:
    """Whether there are cells and nine of ten of them fit: a few bad rows do not hide what a column holds."""
    return bool(cells) and sum(bool(fits(cell)) for cell in cells) >= MIN_SHARE_OF_CELLS * len(cells)


def is_list(cell: Any, kind: type | tuple = object) -> bool:
    """Whether a cell is a list whose values are all of this type."""
    return isinstance(cell, LISTS) and all(isinstance(value, kind) for value in cell)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def has_fractions(numbers: list[float]) -> bool:
    return any(number % 1 for number in numbers)


def words(text: str) -> int:
    """The number of words. In scripts without spaces between words, each character counts as one."""
    return len(CJK.sub(" x ", text).split())


def named(columns: Iterable[Any], *parts: str) -> list[Any]:
    """The columns whose name is one of ``parts``; if there are none, those whose name contains one as a word."""
    columns = list(columns)
    exact = [column for column in columns if str(column).lower() in parts]
    return exact or [column for column in columns if set(re.split(r"[\W_]+", str(column).lower())) & set(parts)]


def are_partners(one: Any, other: Any) -> bool:
    """Whether two columns are the texts of a pair, by their names: sentence1 and sentence2, premise and hypothesis."""
    one, other = str(one), str(other)
    stems = [match.group(1) for match in map(NUMBERED.fullmatch, (one, other)) if match]
    return {one.lower(), other.lower()} in PARTNERS or (len(stems) == 2 and stems[0] == stems[1])


def quoted(column: Any) -> str:
    """A column's name; for a column without a name, its number."""
    return str(column) if isinstance(column, int) else f"'{column}'"


def listed(counts: Counter, limit: int = 5) -> str:
    more = f", and {len(counts) - limit} more" if len(counts) > limit else ""
    return ", ".join(f"{value} {count}" for value, count in counts.most_common(limit)) + more
