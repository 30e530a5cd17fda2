"""The student's predictions for texts: ``python -m pipeline.predict <task> "text" …`` prints one JSON object per text.

Without texts on the command line it reads a file (``--file``) or the standard input. It reads a table (.csv, .tsv,
.parquet, …) with the settings of the task's source. In a .jsonl file, each line is a JSON object; in any other file and
on the standard input, each line is a text or a JSON object. It answers each line as soon as it has read it.
``--context`` is the passage of all questions, ``--pair`` the second text of all pairs.

For an invalid text it prints ``{"error": …}``, and the exit code is 1.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.data import readers
from pipeline.tinybert.data.records import BadRecordError, column_names, flat, list_in_text
from pipeline.tinybert.data.rows import Row, parse_json
from pipeline.tinybert.evaluation import scoring
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.inference import EvaluationSet, Forward, pytorch_forward
from pipeline.tinybert.release import onnx_model
from pipeline.tinybert.tasks.task import Task

LINES = (".jsonl", ".ndjson")  # read line by line, like text
Columns = dict[str, Any]  # field → the source's column, or a list of columns whose texts are joined
Inputs = Iterator[tuple[str, dict | BadRecordError]]  # the position of each record in the input, and the record


def main() -> None:
    options, stdout = parse_arguments(), sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # notes, for example that a text is truncated
        configuration = settings.load()
        name, task_settings = options.task, configuration.task(options.task)
        file = require_built(Path("models", name, "onnx", checkpoints.FILES[options.model]), name)
        task = tasks.load(require_built(Path("data", name, "prepared", "task.json"), name), task_settings, name)
        report = json.loads(require_built(Path("metrics", name, "export.json"), name).read_text(encoding="utf-8"))
        columns = column_names(task, task_settings.source, labelled=False)
        inputs = read_inputs(options, columns, task_settings.source)
        tokenizer = checkpoints.tokenizer(file.parent)
        print(f"{options.model} model of {name}: {file}", file=sys.stderr, flush=True)
        bad, total = [], 0
        with open_model(task, file) as forward:
            for where, record in inputs:
                total += 1
                try:
                    row = to_row(task, record, columns)
                    answer = predict(task, row, tokenizer, forward, report["threshold"], file)
                except BadRecordError as error:
                    bad.append(f"{where}: {error}")
                    answer = {"error": bad[-1]}
                print(json.dumps(answer, ensure_ascii=False), file=stdout, flush=True)
    if not total:
        print("no text to answer", file=sys.stderr)
    if bad:
        raise UserError(f"{len(bad)} of {total} could not be answered: {bad[0]}")


def predict(task: Task, row: Row, tokenizer, forward: Forward, threshold: float | None, file: Path) -> dict:
    """The JSON object for a row: its first field, then the prediction."""
    evaluation_set = EvaluationSet(task, [row], tokenizer)
    logits = evaluation_set.logits(forward, batch_size=1)  # int8 activations are scaled over the whole batch
    scoring.check_finite(logits, file)
    [prediction] = task.apply_threshold(evaluation_set.predictions(logits), threshold)
    first_field = next(iter(task.columns))
    return {first_field: row[first_field], **task.format_prediction(row, prediction, logits)}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.predict", description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("texts", nargs="*", metavar="text")
    parser.add_argument("--model", choices=checkpoints.FILES, default="onnx", help="default: onnx")
    parser.add_argument(
        "--context", "--pair", dest="other", metavar="TEXT", help="the passage of all questions, or all second texts"
    )
    parser.add_argument("--file", type=Path, help="a table, or one text or JSON object per line; -: the standard input")
    options = parser.parse_intermixed_args()  # texts may follow options
    if options.texts and options.file:
        raise UserError("texts and --file: give one of them")
    return options


def require_built(path: Path, name: str) -> Path:
    if not path.exists():
        raise UserError(f"{path} is not built yet: run `dvc repro export@{name}`, or `dvc pull`")
    return path


def open_model(task: Task, file: Path) -> contextlib.AbstractContextManager[Forward]:
    """A function from model inputs to class logits."""
    if file.suffix == ".onnx":
        return contextlib.nullcontext(onnx_model.onnx_forward(task, file))
    return pytorch_forward(task, task.load_model(file.parent))


def read_inputs(options: argparse.Namespace, columns: Columns, source: settings.Source) -> Inputs:
    """The texts of the command line, of a file or of the standard input, as records: field or column → value."""
    first, *second = columns
    if options.other is not None and not second:
        raise UserError("--context, --pair: this task is about one text: leave it out")
    more = dict.fromkeys(second, options.other) if options.other is not None else {}
    if options.texts:
        return ((f"text {number}", {first: text, **more}) for number, text in enumerate(options.texts, 1))
    if options.file is None or str(options.file) == "-":
        return records_of_lines(sys.stdin.buffer, "standard input", first, more)
    suffix = options.file.suffix.lower()
    if suffix in readers.READERS and suffix not in LINES:
        return records_of_table(options.file, columns, source, more)
    try:
        lines = options.file.open("rb")
    except OSError as error:
        raise UserError(f"--file: {options.file} cannot be read: {error.strerror}") from None
    return records_of_lines(lines, str(options.file), None if suffix in LINES else first, more)


def records_of_table(path: Path, columns: Columns, source: settings.Source, more: dict) -> Inputs:
    """The records of a table, read with the settings of the task's source. ``more``: fields that all records get."""
    for number, (position, record) in enumerate(readers.records(path, source, "--file")):
        known = {**more, **record}
        missing = [
            name
            for field, column in columns.items()
            for name in flat([column])
            if number == 0 and not {field, name} & known.keys()
        ]
        if missing:
            raise UserError(
                f"--file: {path} has no column '{missing[0]}' (it has: {', '.join(map(str, record))}): name it as in"
                f" the task's source{readers.delimiter_hint(path, source)}"
            )
        yield f"{path}, {position}", known


def records_of_lines(lines: Iterable[bytes], name: str, first: str | None, more: dict) -> Inputs:
    """The record of each line that is not blank: a JSON object, or the text of the field ``first`` if this is not None.
    ``more``: fields that all records get.
    """
    for number, line in enumerate(lines, 1):
        if number == 1 and b"\0" in line:
            raise UserError(f"{name} is not UTF-8 text, but compressed, a spreadsheet or UTF-16: save it as UTF-8 text")
        try:
            text = line.decode("utf-8-sig").strip()
            if "\0" in text:
                raise BadRecordError("a NUL character, which no text has")
            record: Any = parse_json(text) if text.startswith("{") else {first: text}
            if text and first is None and not text.startswith("{"):
                record = BadRecordError(f"expected a JSON object, found {text[:50]!r}")
        except BadRecordError as error:
            record = error
        except UnicodeDecodeError:
            record = BadRecordError("not UTF-8: save it as UTF-8")
        except ValueError as error:
            record = BadRecordError(f"not valid JSON: {error}: a line that begins with {{ is a JSON object")
        if record != {first: ""}:  # a blank line
            yield f"{name}, line {number}", {**more, **record} if isinstance(record, dict) else record


def to_row(task: Task, record: dict | BadRecordError, columns: Columns) -> Row:
    """A row of the task without its label. The keys of a record are fields of the task or columns of its source. Words
    may be a text, or a list written as text. The row's ``given`` has the fields as the user wrote them, not stripped.

    Raises BadRecordError if the record is invalid.
    """
    if isinstance(record, BadRecordError):
        raise record
    names = {
        field: column if not record.keys().isdisjoint(flat([column])) else field for field, column in columns.items()
    }
    words = record.get(names["words"]) if "words" in names else None
    if isinstance(words, str):
        field, value = ("words", listed) if (listed := list_in_text(words)) else ("text", words)
        record, names = {field: value}, {field: field}
    if missing := [name for name in names.values() if not isinstance(name, list) and name not in record]:
        raise BadRecordError(f"no {missing[0]}: expected {' and '.join(columns)}")
    row = task.parse_record(record, settings.Table.model_validate({"location": "-", **names}), labelled=False)
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BadRecordError("a character is not valid Unicode (half of a surrogate pair, or not UTF-8)") from None
    return {**row, "given": {field: record[name] for field, name in names.items() if not isinstance(name, list)}}


if __name__ == "__main__":
    stage.report_errors_in_one_line()
    stage.imports_are_done()
    # The default encoding is not UTF-8 on Windows, and a file name may have bytes that are not UTF-8.
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    try:
        main()
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
