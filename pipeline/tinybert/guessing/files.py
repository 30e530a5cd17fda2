"""The user's files: how to read them, and their places in data/raw/<task>."""

import contextlib
import filecmp
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.settings import PARAMS, Table
from pipeline.tinybert.data import readers

DIALECTS: tuple[dict, ...] = (
    *({}, {"delimiter": ";"}, {"delimiter": "\t"}, {"delimiter": "|"}, {"delimiter": ","}),
    *({"quotes": False}, {"delimiter": "\t", "quotes": False}),
)
QUOTED = re.compile(r'".*"', re.DOTALL)
README = "Files of the task `{}` in params.yaml. Commit small ones to git; for large ones run `dvc add`.\n"


def read(
    path: Path, option: str, delimiter: str | None = None, min_columns: int = 2
) -> tuple[dict[str, Any], list[dict]]:
    """Detect how to read a file. Tries the delimiter that splits the header into the most columns, then `DIALECTS` in
    order; if ``delimiter`` is given, only this. Returns the first usable settings, and the rows. Raises UserError if
    there are none.
    """
    if path.is_dir():
        raise UserError(f"{option}: {path} is a folder: name a file in it, and others by --validation and --test")
    if path.suffix.lower() == ".txt" and min_columns > 1:
        raise UserError(
            f"{option}: {path}: a .txt file has one text on each line: rename it to .conll (a word and its tag on each"
            " line), .tsv or .csv (columns, with their names in the first line)"
        )
    by_header = _delimiter_by_header(path)
    dialects = [{"delimiter": delimiter}] if delimiter else [*filter(None, [by_header]), *DIALECTS]
    first_error = None
    for dialect in dialects:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # checking the entry logs the same again
                table = Table(location=str(path), **dialect)
                records = readers.read_file(path, table, option).to_dict("records")
        except UserError as error:
            first_error = first_error or error
            continue
        has_short_rows = dialect is by_header and any(None in row.values() for row in records)
        if _is_usable(records, dialect, min_columns) and not has_short_rows:
            return dialect, records
    raise first_error or UserError(f"{option}: {path}: expected rows and at least {min_columns} columns")


def _is_usable(records: list[dict], dialect: dict[str, Any], min_columns: int) -> bool:
    """Whether a dialect gives enough columns, and neither delimiters stay in the only column's name nor quotes around
    all texts of a column.
    """
    if not records or len(records[0]) < min_columns:
        return False
    if len(records[0]) == 1 and set(str(*records[0])) & {*readers.DELIMITERS}:  # the names of several columns
        return False
    return not (dialect.get("quotes") is False and _are_quoted(records))


def _delimiter_by_header(path: Path) -> dict[str, str | None] | None:
    """The delimiter with which the header of a CSV or TSV file has more names than with the usual one."""
    usual = Table.model_validate({"location": str(path)})
    wider = readers.with_delimiter_of_header(path, usual)
    return None if wider is usual else {"delimiter": wider.delimiter}


def _are_quoted(records: list[dict]) -> bool:
    """Whether quotes stand around all texts of a column: they do not belong to the texts."""
    return any(all(QUOTED.fullmatch(row[name] or "") for row in records) for name in records[0])


def location(name: str, files: dict[str, Path]) -> dict[str, Any]:
    """The keys of `source` that say where the files of the splits are."""
    folder = Path("data", "raw", name)
    places = {split: _target(file, folder).relative_to(folder).as_posix() for split, file in files.items()}
    if len(files) == 1:
        return {"location": (folder / places["train"]).as_posix()}
    return {"location": folder.as_posix(), "splits": places}


@contextlib.contextmanager
def copied_or_rolled_back(name: str, files: list[Path]) -> Iterator[None]:
    """Copy files into the task's folder, unless they are there. On an error, remove them and restore params.yaml."""
    folder, params = Path("data", "raw", name), PARAMS.read_bytes()
    before = set(folder.rglob("*")) if folder.exists() else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "README.md").exists():
            (folder / "README.md").write_text(README.format(name), encoding="utf-8", newline="\n")
        for file in files:
            _copy(file, _target(file, folder))
        yield
    except BaseException as error:
        PARAMS.write_bytes(params)
        if before is None:
            shutil.rmtree(folder)
        else:
            for path in set(folder.rglob("*")) - before:
                path.unlink()
        if isinstance(error, UserError):
            text = str(error).replace(f"set tasks.{name}.source.bad_rows: drop", "give --bad-rows drop")  # no entry yet
            raise UserError(f"{text} (nothing is written)") from None
        raise


def _target(file: Path, folder: Path) -> Path:
    inside = file.resolve().is_relative_to(folder.resolve())
    return folder / (file.resolve().relative_to(folder.resolve()) if inside else file.name)


def _copy(file: Path, target: Path) -> None:
    if not target.exists():
        shutil.copyfile(file, target)
        log(f"{file}: copied to {target.as_posix()}")
    elif not filecmp.cmp(file, target, shallow=False):
        raise UserError(f"{file}: {target.as_posix()} is there already, with other content: rename one of them")
