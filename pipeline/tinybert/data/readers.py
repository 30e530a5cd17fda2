"""Readers of file formats: CSV, TSV, JSON Lines, JSON, SQuAD's JSON, Parquet and CoNLL files become tables of records.

Each reader returns a table with one record per row. Values stay as they are in the file: no type is guessed. The index
holds the position of each record in the file, and the name of the index is the unit of the positions ("line", "row").
A reader raises ValueError, OSError or csv.Error if the file is invalid.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pandas as pd

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.settings import Table

LONGEST_SENTENCE = 500  # words; a CoNLL file with a single, longer sentence is refused
UNCLOSED_QUOTE = (
    "a quote opens in it that does not close, or closes within a field: double a quote that belongs to the text, or set"
    " `quotes: false` if quotes have no special meaning in the file"
)


def read_file(path: Path, source: Table, key: str) -> pd.DataFrame:
    """Read a file with the reader for its suffix. Raises UserError, which names ``key``, if the file is invalid."""
    reader = READERS.get(path.suffix.lower())
    if path.is_dir():
        raise UserError(f"{key}: {path} is a folder: name its files under `splits` (train: …) or `split`")
    if reader is None:
        raise UserError(f"{key}: {path}: expected a file that ends with one of {', '.join(READERS)}")
    if not path.is_file():
        raise UserError(f"{key}: there is no file {path}")
    try:
        return reader(path, source)
    except (ValueError, OSError, csv.Error) as error:
        raise UserError(f"{key}: {path} cannot be read as {path.suffix[1:]}: {error}") from error


def _read_text(path: Path) -> str:
    """The content of a UTF-8 file, without a byte order mark."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line}: not UTF-8 (byte {error.object[error.start]:#04x}): save the file as UTF-8"
        ) from None


def _table(records: list, columns: list | None, positions: list, unit: str) -> pd.DataFrame:
    return pd.DataFrame(records, columns=columns, index=pd.Index(positions, name=unit), dtype=object)


# CSV and TSV


def _read_csv(path: Path, source: Table, delimiter: str = ",") -> pd.DataFrame:
    csv.field_size_limit(1 << 30)
    lines = csv.reader(
        io.StringIO(_read_text(path), newline=""),
        delimiter=source.delimiter or delimiter,
        quoting=csv.QUOTE_NONE if source.quotes is False else csv.QUOTE_MINIMAL,
        strict=True,
    )
    records, positions, end = [], [], 0  # end: the last line of the record before
    try:
        header = _read_header(lines)
        end = lines.line_num
        for fields in lines:
            missing = len(header) - len(fields)
            if missing < 0:
                raise csv.Error(f"{len(fields)} fields, the header has {len(header)}: quote a field that holds commas")
            if fields:
                records.append([*fields, *[None] * missing])
                positions.append(end + 1)
            end = lines.line_num
    except csv.Error as error:
        first, last = end + 1, lines.line_num
        lines_of_record = f"{first} to {last}" if last > first else str(first)
        # The csv module reports misplaced quotes with these two messages.
        quotes = str(error).startswith(("unexpected end", repr(lines.dialect.delimiter)))
        raise ValueError(f"line {lines_of_record}: {UNCLOSED_QUOTE if quotes else error}") from None
    _log_long_records(path, [*positions, end + 1])
    return _table(records, header, positions, "line")


def _read_header(lines: Iterator[list[str]]) -> list[str]:
    header = next(lines, [])
    if not header:
        raise csv.Error("the file is empty: expected a header that names the columns")
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise csv.Error(f"the column '{repeated[0]}' occurs twice in the header")
    return header


def _log_long_records(path: Path, starts: list[int]) -> None:
    """Log records of several lines: an unclosed quote swallows all lines up to the next quote, which is no error.

    ``starts``: the first line of each record, and the line after the last record.
    """
    lengths = [end - start for start, end in pairwise(starts)]
    several = sum(length > 1 for length in lengths)
    if several:
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        log(
            f"{path.name}: {several} of {len(lengths)} records span several lines, the longest from line"
            f" {starts[longest]} to {starts[longest + 1] - 1}: if it should not, a quote is left open there"
        )


def _read_tsv(path: Path, source: Table) -> pd.DataFrame:
    return _read_csv(path, source, "\t")


# JSON


def _read_json_lines(path: Path, _source: Table) -> pd.DataFrame:
    records, positions = [], []
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if line.strip():
            try:
                of_line = _json_records(f"[{line}]")
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}, character {error.pos}: not valid JSON: {error.msg}") from None
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            records += of_line
            positions += [number] * len(of_line)
    return _table(records, None, positions, "line")


def _read_json(path: Path, _source: Table) -> pd.DataFrame:
    """A list of objects, or a file in SQuAD's format."""
    text = _read_text(path)
    content = json.loads(text)
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        records = list(_squad_questions(content["data"]))
        _check_surrogates(text, records)
        return _table(records, None, [record["id"] for record in records], "question")
    records = _json_records(text)
    return _table(records, None, list(range(1, len(records) + 1)), "row")


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


def _json_records(text: str) -> list[dict]:
    records = json.loads(text)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError("expected objects, each with the same columns")
    _check_surrogates(text, records)
    return records


def _check_surrogates(text: str, records: list[dict]) -> None:
    """Raise UnicodeEncodeError (a ValueError) for an escaped lone surrogate, which cannot be written to a file."""
    if "\\ud" in text.lower():
        json.dumps(records, ensure_ascii=False).encode("utf-8")


# CoNLL and Parquet


def _read_conll(path: Path, source: Table) -> pd.DataFrame:
    """One word per line and an empty line after each sentence. Columns are numbered from 1.

    One record per sentence, with a list of equal length in each column. Without a ``delimiter`` setting, white space
    separates columns.
    """
    sentences, positions, width = [], [], None
    sentence: list[list[str]] = []
    for number, line in enumerate([*_read_text(path).splitlines(), ""], 1):
        if not line.strip():
            if sentence:
                sentences.append([list(column) for column in zip(*sentence, strict=True)])
                positions.append(number - len(sentence))
            sentence = []
        elif not line.startswith("-DOCSTART-"):
            fields = line.split(source.delimiter)
            width = width or len(fields)
            if len(fields) != width:
                raise ValueError(f"line {number}: {len(fields)} columns, the lines before have {width}: '{line[:50]}'")
            sentence.append(fields)
    if len(sentences) == 1 and len(sentences[0][0]) > LONGEST_SENTENCE:
        raise ValueError(f"one sentence of {len(sentences[0][0])} words: an empty line ends a sentence")
    return _table(sentences, list(range(1, (width or 0) + 1)), positions, "sentence at line")


def _read_parquet(path: Path, _source: Table) -> pd.DataFrame:
    # Integers in a column with missing values stay integers: the label 1 must not become 1.0.
    table = pd.read_parquet(path, to_pandas_kwargs={"integer_object_nulls": True}).reset_index(drop=True)
    table = table.astype(object).where(table.notna(), None)
    return table.set_index(pd.Index(range(1, len(table) + 1), name="row"))


READERS = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".conll": _read_conll,
    ".bio": _read_conll,
    ".iob": _read_conll,
}
