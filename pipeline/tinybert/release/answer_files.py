"""Files of answers, written block by block: JSON Lines, CSV, TSV or Parquet."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.output import csv_rows, output
from pipeline.tinybert.data.rows import line
from pipeline.tinybert.release.stand_alone import ANSWERS

Write = Callable[[list[dict]], None]
# The types of an answer's fields in a Parquet file. A table has them all, also where a block has no value for one.
TYPES = {
    "label": "string",
    "labels": "strings",
    "probabilities": "numbers",
    "number": "double",
    "tags": "strings",
    "entities": "entities",
    "answer": "string",
    "start": "int64",
}
ERROR = {"error": "string"}


@contextlib.contextmanager
def open_file(path: Path, kind: str) -> Iterator[Write]:
    """A function that appends answers to the file, which appears when the block ends.

    Raises UserError if the suffix is unknown, or if answers do not fit into a table.
    """
    if path.suffix.lower() not in WRITERS:
        raise UserError(f"--output: {path}: expected a file that ends with one of {', '.join(WRITERS)}")
    if path.is_dir():
        raise UserError(f"--output: {path} is a folder: name another file, or remove the folder")
    if not path.parent.is_dir():
        raise UserError(f"--output: {path}: there is no folder {path.parent}: create it first")
    with (
        output(path) as partial,
        WRITERS[path.suffix.lower()](partial, path, {name: TYPES[name] for name in ANSWERS[kind]} | ERROR) as write,
    ):
        yield write


@contextlib.contextmanager
def _json_lines(partial: Path, path: Path, fields: dict[str, str]) -> Iterator[Write]:
    with open(partial, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        yield lambda answers: file.writelines(line(json.loads(json.dumps(answer, default=str))) for answer in answers)


@contextlib.contextmanager
def _csv(partial: Path, path: Path, fields: dict[str, str]) -> Iterator[Write]:
    """Lists and objects become JSON."""
    columns: list[str] = []
    with open(partial, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        write_row = csv_rows(file, "\t" if path.suffix.lower() == ".tsv" else ",")

        def write(answers: list[dict]) -> None:
            if not columns:
                columns.extend(_columns(answers, fields))
                write_row(columns)
            _check_columns(path, answers, columns)
            for answer in answers:
                write_row([_cell(answer.get(name)) for name in columns])

        yield write
        if not columns:
            write([])


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


@contextlib.contextmanager
def _parquet(partial: Path, path: Path, fields: dict[str, str]) -> Iterator[Write]:
    import pyarrow
    import pyarrow.parquet

    types = {
        "string": pyarrow.string(),
        "double": pyarrow.float64(),
        "int64": pyarrow.int64(),
        "strings": pyarrow.list_(pyarrow.string()),
        "numbers": pyarrow.map_(pyarrow.string(), pyarrow.float64()),
    }
    places = {"first": types["int64"], "start": types["int64"], "end": types["int64"]}
    entity = pyarrow.struct({"type": types["string"], "words": types["strings"], **places})
    types["entities"] = pyarrow.list_(entity)
    schema: Any = None
    file: Any = None
    with contextlib.ExitStack() as around:

        def write(answers: list[dict]) -> None:
            nonlocal schema, file
            if schema is None:
                columns = _columns(answers, fields)
                known = {name: types[kind] for name, kind in fields.items()}
                given = [name for name in columns if name not in known]
                inferred = {name: pyarrow.array([answer.get(name) for answer in answers]).type for name in given}
                schema = pyarrow.schema([(name, known.get(name) or text_if_blank(inferred[name])) for name in columns])
                file = around.enter_context(pyarrow.parquet.ParquetWriter(partial, schema))
            _check_columns(path, answers, schema.names)
            file.write_table(pyarrow.Table.from_pylist([_maps_as_pairs(answer) for answer in answers], schema))

        def text_if_blank(kind: Any) -> Any:
            return types["string"] if pyarrow.types.is_null(kind) else kind

        try:
            yield write
            if file is None:
                write([])
        except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise UserError(
                f"--output: {path}: {error}: a column has values of several types, or values that Parquet cannot hold:"
                " write a .jsonl file"
            ) from error


def _maps_as_pairs(answer: dict) -> dict:
    probabilities = answer.get("probabilities")
    return {**answer, "probabilities": list(probabilities.items())} if probabilities else answer


def _columns(answers: list[dict], fields: dict[str, str]) -> list[str]:
    """The columns of a table that begins with these answers: those of the input, then those of an answer."""
    return [*dict.fromkeys(name for answer in answers for name in answer if name not in fields), *fields]


def _check_columns(path: Path, answers: list[dict], columns: list[str]) -> None:
    known = set(columns)
    for answer in answers:
        if new := [name for name in answer if name not in known]:
            raise UserError(
                f"--output: {path}: an input has the field '{new[0]}', the inputs before have none: write a .jsonl file"
            )


WRITERS = {".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
