"""Readers of file formats: CSV, TSV, JSON Lines, JSON, SQuAD's JSON, Parquet, CoNLL and text files become records.

A reader yields one record after the other, (position, column → value), so that memory does not grow with the file; only
JSON is read whole. Values stay as they are in the file: no type is guessed. The position says where the record stands
("line 3", "row 7"). A reader raises ValueError, OSError or csv.Error if the file is invalid.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.settings import Table
from pipeline.tinybert.data.locations import untracked_hint
from pipeline.tinybert.data.rows import parse_json

Records = Iterator[tuple[str, dict]]

LONGEST_SENTENCE = 500  # words; a CoNLL file with a single, longer sentence is refused
UNCLOSED_QUOTE = (
    "a quote does not close, or closes within a field: double a quote that belongs to the text, or set `quotes: false`"
    " if quotes have no special meaning in the file"
)
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
USUAL_DELIMITER = {".csv": ",", ".tsv": "\t"}
DELIMITER_LINE = re.compile(r'"?sep=([^\r\n])"?\s*', re.IGNORECASE)  # Excel reads and writes it above the header
COMMENT = re.compile(r"# (new(doc|par)\b|.*=)")  # as in CoNLL-U and MultiCoNER; the word # has tags and no = after it
ROWS_AT_ONCE = 256  # of a Parquet file or a dataset of the hub
LISTS = ("data", "rows", "records", "examples", "items")  # names of the list of rows in a JSON object
# A Parquet file is refused if it unpacks to more bytes than the first, and to more times its size than the second.
MOST_UNPACKED, MOST_TIMES = 1 << 30, 100
PANDAS_INDEX = re.compile(r"__index_level_\d+__")


def records(path: Path, source: Table, key: str) -> Records:
    """Yield (position, column → value) for each record of a file, with the reader for its suffix.

    Raises UserError, which names ``key``, if the file is invalid.
    """
    reader = READERS.get(path.suffix.lower())
    if path.is_dir():
        raise UserError(f"{key}: {path} is a folder: name its files under `splits` (train: …) or `split`")
    if reader is None:
        raise UserError(f"{key}: {path}: expected a file that ends with one of {', '.join(READERS)}")
    if not path.is_file():
        raise UserError(f"{key}: there is no file {path}{untracked_hint()}")
    try:
        yield from reader(path, source)
    except (ValueError, OSError, csv.Error) as error:
        reason = _not_utf8(path) if isinstance(error, UnicodeDecodeError) else error
        raise UserError(f"{key}: {path} cannot be read as {path.suffix[1:]}: {reason}") from error


def read_file(path: Path, source: Table, key: str) -> pd.DataFrame:
    """All records of a file, as ``records`` reads them; None where a record lacks a column."""
    positions, found = [], []
    for position, record in records(path, source, key):
        positions.append(position)
        found.append(record)
    table = pd.DataFrame(found, index=positions, dtype=object)
    return table.where(table.notna(), None)


def _open(path: Path, newline: str) -> TextIO:
    """A UTF-8 file, without a byte order mark."""
    return open(path, encoding="utf-8-sig", newline=newline)


def _not_utf8(path: Path) -> str:
    """Which line of a file is not UTF-8."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"line {number}: not UTF-8 (byte {line[error.start]:#04x}): save the file as UTF-8"
    return "not UTF-8"


# CSV and TSV


def _read_csv(path: Path, source: Table) -> Records:
    csv.field_size_limit(1 << 30)
    with _open(path, newline="") as file:
        lines = _csv_reader(_without_delimiter_line(file), source, delimiter_of(path, source), strict=True)
        # longest: first and last line of the longest record; end: last line of the record before.
        count, several, longest, end = 0, 0, (0, 0), 0
        try:
            header = _read_header(lines)
            end = lines.line_num
            for fields in lines:
                missing = len(header) - len(fields)
                if any(fields[len(header) :]):
                    raise csv.Error(
                        f"{len(fields)} fields, the header has {len(header)}: quote a field that holds the delimiter"
                    )
                start, end = end + 1, lines.line_num
                if any(fields):  # spreadsheets also write rows of nothing but delimiters
                    count, several = count + 1, several + (end > start)
                    longest = max(longest, (start, end), key=lambda span: span[1] - span[0])
                    # No setting can name a column without a name. Spreadsheets write many of them.
                    record = zip(header, [*fields[: len(header)], *[None] * missing], strict=True)
                    yield f"line {start}", {name: value for name, value in record if name}
        except csv.Error as error:
            raise ValueError(_csv_error(error, path, source, end + 1, lines.line_num)) from None
    if several:  # an unclosed quote swallows all lines up to the next quote, without an error
        log(
            f"{path.name}: {several} of {count} records span several lines, the longest from line {longest[0]} to"
            f" {longest[1]}: if it should not, a quote is left open there"
        )


def _without_delimiter_line(lines: Iterable[str]) -> Iterator[str]:
    """The lines, of which `sep=;` in the first becomes a blank line, so that the numbers of the others stay."""
    for number, line in enumerate(lines):
        yield "\n" if number == 0 and DELIMITER_LINE.fullmatch(line) else line


def _csv_reader(lines: Any, source: Table, delimiter: str, strict: bool) -> Any:
    return csv.reader(
        lines,
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if source.quotes is False else csv.QUOTE_MINIMAL,
        strict=strict,
    )


def _read_header(lines: Iterator[list[str]]) -> list[str]:
    header = next((fields for fields in lines if fields), [])  # blank lines have none
    if not any(header):
        state = "its first line has no names" if header else "the file is empty"
        raise csv.Error(f"{state}: expected a header that names the columns")
    repeated = [name for name, count in Counter(filter(None, header)).items() if count > 1]
    if repeated:
        raise csv.Error(f"the column '{repeated[0]}' occurs twice in the header")
    return header


def _csv_error(error: csv.Error, path: Path, source: Table, first: int, last: int) -> str:
    if hint := delimiter_hint(path, source):
        return hint.removeprefix(": ")
    lines_of_record = f"{first} to {last}" if last > first else str(first)
    # The csv module reports misplaced quotes with these two messages.
    quotes = str(error).startswith(("unexpected end", repr(delimiter_of(path, source))))
    return f"line {lines_of_record}: {UNCLOSED_QUOTE if quotes else error}"


def delimiter_of(path: Path, source: Table) -> str:
    """The setting; if it is blank, what the file's first line `sep=;` says, or what is usual for its suffix."""
    if source.delimiter:
        return source.delimiter
    with _open(path, newline="") as file:
        stated = DELIMITER_LINE.fullmatch(file.readline())
    return stated[1] if stated else USUAL_DELIMITER[path.suffix.lower()]


def wider_header(path: Path, source: Table) -> tuple[str, int] | None:
    """The delimiter with which the header of a CSV or TSV file has the most names, and their number; None if this is
    the delimiter in use.
    """
    with _open(path, newline="") as file:
        line = next((line for line in _without_delimiter_line(file) if line.strip()), "")
    used = delimiter_of(path, source)
    widths = {
        delimiter: len(next(_csv_reader([line], source, delimiter, strict=False), []))
        for delimiter in (used, *DELIMITERS)
    }
    best = max(widths, key=lambda delimiter: widths[delimiter])  # the one in use comes first and wins ties
    return None if best == used else (best, widths[best])


def with_delimiter_of_header(path: Path, source: Table) -> Table:
    """The source with the delimiter that gives the header of a CSV or TSV file the most names."""
    try:
        wider = wider_header(path, source) if path.suffix.lower() in USUAL_DELIMITER and path.is_file() else None
    except (UnicodeDecodeError, csv.Error):  # `records` says why
        return source
    return source.model_copy(update={"delimiter": wider[0]}) if wider else source


def delimiter_hint(path: Path, source: Table) -> str:
    """What to set if the header of a file looks like columns with another delimiter; else nothing."""
    suffix = path.suffix.lower()
    if suffix not in USUAL_DELIMITER:
        conll = READERS.get(suffix) is _read_conll and source.delimiter
        return (
            f": leave `delimiter` blank if white space separates its columns, not {source.delimiter!r}" if conll else ""
        )
    wider = wider_header(path, source)
    if wider is None:
        return ""
    best, names = wider
    setting = f"set `delimiter: {json.dumps(best)}`" if best != USUAL_DELIMITER[suffix] else "leave `delimiter` blank"
    return f": its header looks like {names} columns with {DELIMITERS[best]} between them: {setting}"


# JSON


def _read_json_lines(path: Path, _source: Table) -> Records:
    with _open(path, newline="\n") as file:  # other separators of lines, such as U+2028, are characters of a text
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    record = _as_object(parse_json(line.rstrip("\r\n")))
                    _check_objects([record], line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"line {number}, {_not_json(error, line)}") from None
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from None
                yield f"line {number}", record


def _not_json(error: json.JSONDecodeError, line: str) -> str:
    if error.msg == "Extra data":
        return f"character {error.pos + 1}: more than one value: expected one object on each line"
    one_value = line.strip() in ("[", "{", "[{")
    hint = ": expected one object on each line; if the file is one JSON list, name it .json" if one_value else ""
    return f"character {error.pos + 1}: not valid JSON: {error.msg}{hint}"


def _read_json(path: Path, source: Table) -> Records:
    """A list of objects, a table as pandas writes it, a file in SQuAD's format, or JSON Lines (pandas and `datasets`
    name these .json too).
    """
    with _open(path, newline="\n") as file:
        text = file.read()
    try:
        content = parse_json(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        yield from _read_json_lines(path, source)
        return
    if isinstance(content, dict) and _is_squad(content.get("data")):
        questions = list(_squad_questions(content["data"]))
        _check_objects(questions, text)
        for record in questions:
            yield f"question {record['id']}", record
        return
    found = list(map(_as_object, _objects_in(content)))
    _check_objects(found, text)
    for number, record in enumerate(found, 1):
        yield f"row {number}", record


def _as_object(value: Any) -> Any:
    """A row of spaCy's training data, a list of a text and an object with its annotations, in one object."""
    if isinstance(value, list) and list(map(type, value)) == [str, dict]:
        return {**value[1], "text": value[0]}
    return value


def _is_squad(articles: Any) -> bool:
    return isinstance(articles, list) and any(isinstance(of, dict) and "paragraphs" in of for of in articles)


def _objects_in(content: Any) -> list:
    """The objects of a list, of a list in an object (``{"data": […]}``), or of a table in the forms that pandas calls
    columns, index and split.
    """
    if isinstance(content, list):
        return content
    fields = content if isinstance(content, dict) else {}
    columns, rows = fields.get("columns"), fields.get("data")
    if isinstance(columns, list) and isinstance(rows, list):
        if odd := next((row for row in rows if not isinstance(row, list) or len(row) != len(columns)), None):
            raise ValueError(f"a row of `data` is {str(odd)[:50]}: expected a list of {len(columns)} values")
        return [dict(zip(map(str, columns), row, strict=True)) for row in rows]
    parts = list(fields.values())
    if parts and all(isinstance(part, dict) and part and part.keys() == parts[0].keys() for part in parts):
        if len(parts) > len(parts[0]):  # a table has more rows than columns
            return parts
        return [{name: part[number] for name, part in fields.items()} for number in parts[0]]
    lists = [fields[name] for name in LISTS if isinstance(fields.get(name), list)]
    if len(lists) != 1:
        raise ValueError("expected objects in a list, or one object on each line")
    return lists[0]


def _squad_questions(articles: list[dict]) -> Iterator[dict]:
    """Yield the questions of a SQuAD file (1.1 or 2.0), each with its passage."""
    where = ""
    try:
        for number, article in enumerate(articles, 1):
            where = f"article {number}"
            for paragraph in article["paragraphs"]:
                where = f"article {number} ({article.get('title')})"
                for question in paragraph["qas"]:
                    where = f"article {number} ({article.get('title')}), question {question.get('id')}"
                    if question.get("is_impossible") and question.get("answers"):
                        raise ValueError(f"{where}: is_impossible, but it has answers: remove one of them")
                    yield {
                        "id": question["id"],
                        "title": article.get("title"),
                        "context": paragraph["context"],
                        "question": question["question"],
                        "answers": [] if question.get("is_impossible") else question.get("answers", []),
                    }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{where}: not in SQuAD's format (data, paragraphs, context, qas, id, question, answers): {error}"
        ) from None


def _check_objects(found: list, text: str) -> None:
    """Raise ValueError unless all values are objects, and none has a lone surrogate, which no file can hold."""
    if not all(isinstance(record, dict) for record in found):
        raise ValueError("expected objects, each with the same columns")
    if "\\ud" in text.lower():
        json.dumps(found, ensure_ascii=False).encode("utf-8")


# Text, CoNLL and Parquet


def _read_text(path: Path, _source: Table) -> Records:
    """The text of each line that is not blank, in the column `text`."""
    with _open(path, newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"line {number}", {"text": line.strip()}


def _read_conll(path: Path, source: Table) -> Records:
    """One word per line and an empty line after each sentence. Columns are numbered from 1.

    One record per sentence, with a list of equal length in each column. Without a ``delimiter`` setting, blanks and
    tabs separate columns. Comments before a sentence are left out.
    """
    sentence: list[list[str]] = []
    count, comments, width, first = 0, 0, None, 0  # first: words of the first sentence
    with _open(path, newline="\n") as file:
        for number, line in enumerate(chain(file, ["\n"]), 1):  # only \n ends a line: a word may hold U+2028
            line = line.rstrip("\r\n")
            if not line.strip():
                if sentence:
                    count, first = count + 1, first or len(sentence)
                    columns = {column: list(cells) for column, cells in enumerate(zip(*sentence, strict=True), 1)}
                    yield f"sentence at line {number - len(sentence)}", columns
                sentence = []
            elif not sentence and COMMENT.match(line):
                comments += 1
            elif not line.startswith("-DOCSTART-"):
                fields = line.split(source.delimiter) if source.delimiter else re.split(r"[ \t]+", line.strip(" \t"))
                width = width or len(fields)
                if len(fields) != width:
                    raise ValueError(_other_width(number, line, len(fields), width, source))
                sentence.append(fields)
    if count == 1 and first > LONGEST_SENTENCE:
        raise ValueError(f"one sentence of {first} words: an empty line ends a sentence")
    if comments:
        log(f"{path.name}: {comments} comment lines (# … =) left out")


def _other_width(number: int, line: str, fields: int, width: int, source: Table) -> str:
    problem = f"line {number}: {fields} columns, the lines before have {width}: '{line[:50]}'"
    if "\t" in line and source.delimiter is None:
        return f'{problem}: set `delimiter: "\\t"` if only tabs separate the columns'
    return f"{problem}: if it is a comment, remove it" if line.startswith("#") else problem


def _read_parquet(path: Path, source: Table) -> Records:
    import pyarrow
    import pyarrow.parquet

    def batches() -> Iterator[Any]:
        unpacked, most = 0, max(MOST_UNPACKED, MOST_TIMES * path.stat().st_size)
        for batch in file.iter_batches(ROWS_AT_ONCE):
            unpacked += batch.nbytes
            if unpacked > most:
                raise ValueError(
                    f"it unpacks to more than {most / (1 << 30):.0f} GiB, {MOST_TIMES} times its size or more"
                )
            yield batch

    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = {} if getattr(source, "labels", None) else _names_of_classes(file.schema_arrow)
        for column, of_classes in names.items():
            log(
                f"{path.name}: column '{column}': numbers become names, by the file's metadata: {', '.join(of_classes)}"
            )
        for position, record in rows_of(batches(), names):
            yield position, {name: value for name, value in record.items() if not PANDAS_INDEX.fullmatch(name)}
    except pyarrow.ArrowException as error:  # not all are ValueErrors
        raise ValueError(str(error)) from error


def _names_of_classes(schema: Any) -> dict[str, list[str]]:
    """Column → names of its classes, by the metadata that `datasets` writes into a Parquet file."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    import datasets

    return class_names(datasets.Features.from_arrow_schema(schema))


def class_names(features: Any) -> dict[str, list[str]]:
    """Column → names of its classes, for columns of class indices or lists of them, by the features of `datasets`."""
    inner = {column: getattr(feature, "feature", feature) for column, feature in features.items()}
    return {column: feature.names for column, feature in inner.items() if hasattr(feature, "int2str")}


def rows_of(batches: Iterable[Any], names: dict[str, list[str]]) -> Records:
    """Yield the rows of Arrow batches as Python values. An integer stays an integer even beside missing values: the
    label 1 must not become 1.0. ``names``: column → names that replace its class indices.
    """
    row = 0
    for batch in batches:
        for record in batch.to_pylist():
            row += 1
            yield f"row {row}", record | {column: _named(record[column], names[column]) for column in names}


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(index, names) for index in value]
    return names[value] if value is not None and 0 <= value < len(names) else None


READERS = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".txt": _read_text,
    ".conll": _read_conll,
    ".bio": _read_conll,
    ".iob": _read_conll,
}
