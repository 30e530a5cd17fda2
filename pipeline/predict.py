"""What the student says of texts: ``python -m pipeline.predict <task> "text" …`` prints an answer a line, as JSON.

Without texts on the command line it reads a file (``--file``) or the standard input. A table (.csv, .tsv, .parquet, …)
is read as the task's source is. In a .jsonl file, each line is a JSON object; in any other file and on the standard
input, it is a text or an object. Lines are answered as they come. ``--context`` is the passage of all the questions,
``--pair`` the second text.

A text that cannot be answered gets ``{"error": …}`` in its place, and the exit code is 1.
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
Asked = Iterator[tuple[str, dict | BadRecordError]]  # where it stands, and what is asked


def main() -> None:
    given, answers = arguments(), sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # notes, for example that a text is truncated
        configuration = settings.load()
        name, wanted = given.task, configuration.task(given.task)
        file = built(Path("models", name, "onnx", checkpoints.FILES[given.model]), name)
        task = tasks.load(built(Path("data", name, "prepared", "task.json"), name), wanted, name)
        report = json.loads(built(Path("metrics", name, "export.json"), name).read_text(encoding="utf-8"))
        columns = column_names(task, wanted.source, labelled=False)
        asked = records(given, columns, wanted.source)
        tokenizer = checkpoints.tokenizer(file.parent)
        print(f"{given.model} model of {name}: {file}", file=sys.stderr, flush=True)
        bad, total = [], 0
        with model(task, file) as forward:
            for where, record in asked:
                total += 1
                try:
                    row = row_of(task, record, columns)
                    found = answer(task, row, tokenizer, forward, report["threshold"], file)
                except BadRecordError as error:
                    bad.append(f"{where}: {error}")
                    found = {"error": bad[-1]}
                print(json.dumps(found, ensure_ascii=False), file=answers, flush=True)
    if bad:
        raise UserError(f"{len(bad)} of {total} could not be answered: {bad[0]}")


def answer(task: Task, row: Row, tokenizer, forward: Forward, threshold: float | None, file: Path) -> dict:
    one = EvaluationSet(task, [row], tokenizer)
    logits = one.logits(forward, batch_size=1)  # int8's scales are those of the whole batch
    scoring.check_finite(logits, file)
    [prediction] = task.apply_threshold(one.predictions(logits), threshold)
    shown = next(iter(task.columns))
    return {shown: row[shown], **task.format_prediction(row, prediction, logits)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.predict", description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("texts", nargs="*", metavar="text")
    parser.add_argument("--model", choices=checkpoints.FILES, default="onnx", help="onnx unless given")
    parser.add_argument("--context", "--pair", dest="other", metavar="TEXT", help="a passage, or a second text, of all")
    parser.add_argument("--file", type=Path, help="a table, or a text or JSON object a line; -: the standard input")
    given = parser.parse_intermixed_args()  # texts may stand after options
    if given.texts and given.file:
        raise UserError("texts and --file: give one of them")
    return given


def built(path: Path, name: str) -> Path:
    if not path.exists():
        raise UserError(f"{path} is not built yet: run `dvc repro export@{name}`, or `dvc pull`")
    return path


def model(task: Task, file: Path) -> contextlib.AbstractContextManager[Forward]:
    """A function from model inputs to class logits."""
    if file.suffix == ".onnx":
        return contextlib.nullcontext(onnx_model.onnx_forward(task, file))
    return pytorch_forward(task, task.load_model(file.parent))


def records(given: argparse.Namespace, columns: Columns, source: settings.Source) -> Asked:
    """What is asked, field → value, and where it stands."""
    first, *second = columns
    if given.other is not None and not second:
        raise UserError("--context, --pair: this task is about one text: leave it out")
    more = dict.fromkeys(second, given.other) if given.other is not None else {}
    if given.texts:
        return ((f"text {number}", {first: text, **more}) for number, text in enumerate(given.texts, 1))
    if given.file is None or str(given.file) == "-":
        return of_lines(sys.stdin.buffer, "standard input", first, more)
    suffix = given.file.suffix.lower()
    if suffix in readers.READERS and suffix not in LINES:
        return of_table(given.file, columns, source, more)
    try:
        lines = given.file.open("rb")
    except OSError as error:
        raise UserError(f"--file: {given.file} cannot be read: {error.strerror}") from None
    return of_lines(lines, str(given.file), None if suffix in LINES else first, more)


def of_table(path: Path, columns: Columns, source: settings.Source, more: dict) -> Asked:
    """The same of a table's records; the file is read as the task's source is."""
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
                " the task's source"
            )
        yield f"{path}, {position}", known


def of_lines(lines: Iterable[bytes], name: str, first: str | None, more: dict) -> Asked:
    """The same of lines, without blank ones. A line is a JSON object, or else the text of the field ``first``."""
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig").strip()
            record: Any = parse_json(text) if text.startswith("{") else {first: text}
            if text and first is None and not text.startswith("{"):
                record = BadRecordError(f"expected a JSON object, found {text[:50]!r}")
        except UnicodeDecodeError:
            record = BadRecordError("not UTF-8: save it as UTF-8")
        except ValueError as error:
            record = BadRecordError(f"not valid JSON: {error}: a line that begins with {{ is a JSON object")
        if record != {first: ""}:  # a blank line
            yield f"{name}, line {number}", {**more, **record} if isinstance(record, dict) else record


def row_of(task: Task, record: dict | BadRecordError, columns: Columns) -> Row:
    """A row of the task without its answer. Fields of a record go by their own names or by those of the task's columns;
    words may be a text, or a list written as text. ``given``: the fields as the user gave them, with blanks at their
    ends.
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
        raise BadRecordError("a character that is no text (half of a surrogate pair, or not UTF-8)") from None
    return {**row, "given": {field: record[name] for field, name in names.items() if not isinstance(name, list)}}


if __name__ == "__main__":
    stage.report_errors_in_one_line()
    stage.imports_are_done()
    # On Windows the default is another encoding. The name of a file may be no UTF-8.
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    try:
        main()
    except BrokenPipeError:  # whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
