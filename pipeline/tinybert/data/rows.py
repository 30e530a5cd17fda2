"""Rows on disk: JSON Lines in UTF-8, one object per line. Equal rows give equal bytes."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.tinybert.core.output import damaged

Row = dict
DIGITS = 12  # of a hash; with a million rows, two are equal with a probability of 0.2 %


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError if it is invalid or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("objects or lists are nested too deeply") from None


def read(path: str | Path, may_be_empty: bool = False) -> Iterator[Row]:
    """Yield the rows of a file that a stage has written, one by one.

    Raises UserError at a damaged line, and if there is no row, unless the file ``may_be_empty``.
    """
    is_empty = True
    with open(path, encoding="utf-8") as file:
        try:
            for line in file:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError
                is_empty = False
                yield row
        except ValueError:
            raise damaged(path) from None
    if is_empty and not may_be_empty:
        raise damaged(path, "empty")


def blocks(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of ``size`` rows (or texts); the last may be shorter."""
    rows = iter(rows)
    while block := list(islice(rows, size)):
        yield block


def count(path: str | Path) -> int:
    """The number of rows in a file that a stage has written. Raises UserError if there is none."""
    with open(path, "rb") as file:
        if found := sum(1 for _ in file):
            return found
    raise damaged(path, "empty")


def line(row: Row) -> str:
    """A row as one line of a file."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def digest(rows: Iterable[Row]) -> str:
    """A hash of rows: another one if a text or a label changes."""
    return hashlib.sha256("".join(map(line, rows)).encode()).hexdigest()[:DIGITS]


def write(path: str | Path, rows: Iterable[Row]) -> int:
    """Write rows and return their number."""
    count = 0
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(line(row))
            count += 1
    return count
