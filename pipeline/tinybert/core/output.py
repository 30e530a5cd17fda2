"""Atomic outputs: a file or folder is complete, or as it was. The same data give the same bytes of JSON and CSV."""

import contextlib
import csv
import json
import math
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from pipeline.tinybert.core import whole
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import rank


@contextlib.contextmanager
def output(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder (for a path with a suffix: a file name) that replaces ``path`` when the block ends.

    If the block raises, ``path`` stays as it was and what was written is deleted. In every process but the first,
    what is written is always deleted. Raises UserError if ``path`` is a link to a folder.
    """
    path = Path(path)
    if rank() > 0:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) if not path.suffix else Path(folder, path.name)
        return
    if path.is_symlink() and path.is_dir():
        raise UserError(
            f"{path}: a link to {path.resolve()} stands where DVC keeps an output of this stage: remove it"
            f" (`{shlex.join(['rm', str(path)])}`), and run `dvc repro` again. `dvc cache dir` sets where the files lie"
        )
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    if not path.suffix:
        partial.mkdir()
    try:
        yield partial
        whole.sync_all(partial)
        _replace(path, partial)
        whole.sync(path.parent)
    finally:
        _remove(partial)


def _replace(path: Path, new: Path) -> None:
    """Put ``new`` in the place of ``path``."""
    old = path.with_name(f".{path.name}.old.partial")
    _remove(old)
    if path.exists() and (path.is_dir() or new.is_dir()):  # os.replace cannot replace a folder that has files
        os.replace(path, old)
    try:
        os.replace(new, path)
    except BaseException:
        if old.exists():
            os.replace(old, path)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: str | Path, content: dict) -> None:
    """Write JSON. Raises UserError if a number is NaN or infinite, which JSON does not have."""
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise _not_finite(path) from None
    Path(path).write_text(text + "\n", encoding="utf-8", newline="\n")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file that a stage has written. Raises UserError if it is damaged."""
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"), path)
    except UnicodeDecodeError:
        raise damaged(path) from None


def parse_json(text: str, path: str | Path) -> Any:
    """The content of a JSON file from its text. Raises UserError if it is damaged, as by a conflict of a merge."""
    try:
        return json.loads(text)
    except ValueError:
        raise damaged(path) from None


def damaged(path: str | Path, how: str = "damaged") -> UserError:
    """The error to raise if a file that a stage has written cannot be used."""
    return UserError(f"{path} is {how}: run `dvc repro`, which writes it again")


def write_csv(path: str | Path, columns: list[str], records: Iterable[Iterable], delimiter: str = ",") -> None:
    """A table for a plot. Numbers are rounded to six digits, which keeps the file small and its diffs readable.

    Raises UserError if a number is NaN or infinite.
    """

    def cell(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        if not math.isfinite(value):
            raise _not_finite(path)
        return f"{value:.6g}"

    with open(path, "w", encoding="utf-8", newline="") as file:
        write_row = csv_rows(file, delimiter)
        write_row(columns)
        for record in records:
            write_row([cell(value) for value in record])


def csv_rows(file: TextIO, delimiter: str) -> Callable[[Iterable[Any]], object]:
    """A function that writes a row of CSV to a file that is open with ``newline=""``. Rows end with a line feed.

    Cells with a line feed or a carriage return are quoted: Python's writer quotes only the characters of its line
    terminator.
    """

    class Lines:
        def write(self, row: str) -> int:
            return file.write(row.removesuffix("\r\n") + "\n")

    return csv.writer(Lines(), delimiter=delimiter, lineterminator="\r\n").writerow


def _not_finite(path: str | Path) -> UserError:
    name = Path(path).name.removeprefix(".").removesuffix(".partial")
    return UserError(
        f"{name} is not written: a number in it is NaN or infinite: a model is damaged or its training diverged: train"
        " it again with a smaller learning rate"
    )
