"""Rows on disk: JSON Lines, one object a line, in UTF-8, the same bytes for the same rows."""

import csv
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

Row = dict


def read(path: str | Path) -> Iterator[Row]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def blocks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    rows = iter(rows)
    while block := list(islice(rows, size)):
        yield block


def count(path: str | Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)


def line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def write(path: str | Path, rows: Iterable[Row]) -> int:
    """Write rows, return how many."""
    count = 0
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(line(row))
            count += 1
    return count


def write_json(path: str | Path, content: dict) -> None:
    Path(path).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def write_csv(path: str | Path, columns: list[str], records: Iterable[Iterable], delimiter: str = ",") -> None:
    """A table for a plot. Numbers are rounded to six digits: small and stable."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(columns)
        for record in records:
            writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in record])
