"""What the student says of texts: ``python -m pipeline.predict <task> "text" …`` prints an answer a line, as JSON.

Without texts on the command line it reads a file (``--file``) or the standard input, a text or a JSON object a line,
and answers each as it comes. ``--context`` is the passage of all the questions, ``--pair`` the second text.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.data.records import BadRecordError, column_names
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.inference import EvaluationSet, Forward, pytorch_forward
from pipeline.tinybert.release import onnx_model
from pipeline.tinybert.tasks.task import Task


def main() -> None:
    given, configuration = arguments(), settings.load()
    name, wanted = given.task, configuration.task(given.task)
    file = built(Path("models", name, "onnx", checkpoints.FILES[given.model]), name)
    task = tasks.load(built(Path("data", name, "prepared", "task.json"), name), wanted, name)
    threshold = json.loads(built(Path("metrics", name, "export.json"), name).read_text(encoding="utf-8"))["threshold"]
    columns = column_names(task, wanted.source, labelled=False)
    asked = records(given, list(columns))
    tokenizer = checkpoints.tokenizer(file.parent)
    print(f"{given.model} model of {name}: {file}", file=sys.stderr, flush=True)
    with model(task, file) as forward:
        for where, record in asked:
            row = row_of(task, record, columns, where)
            with contextlib.redirect_stdout(sys.stderr):  # notes, for example that a text is truncated
                one = EvaluationSet(task, [row], tokenizer)
                logits = one.logits(forward, batch_size=1)  # int8's scales are those of the whole batch
                [prediction] = task.apply_threshold(one.predictions(logits), threshold)
            shown = next(iter(columns))
            answer = {shown: row[shown], **task.format_prediction(row, prediction, logits)}
            print(json.dumps(answer, ensure_ascii=False), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.predict", description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("texts", nargs="*", metavar="text")
    parser.add_argument("--model", choices=checkpoints.FILES, default="onnx", help="onnx unless given")
    parser.add_argument("--context", "--pair", dest="other", metavar="TEXT", help="a passage, or a second text, of all")
    parser.add_argument("--file", type=Path, help="a text or a JSON object a line; -: the standard input")
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


def records(given: argparse.Namespace, fields: list[str]) -> Iterator[tuple[str, dict]]:
    """What is asked, field → value, and where it stands."""
    first, *second = fields
    if given.other is not None and not second:
        raise UserError("--context, --pair: this task is about one text: leave it out")
    more = dict.fromkeys(second, given.other) if given.other is not None else {}
    if given.texts:
        return ((f"text {number}", {first: text, **more}) for number, text in enumerate(given.texts, 1))
    return of_lines(given.file, first, more)


def of_lines(path: Path | None, first: str, more: dict) -> Iterator[tuple[str, dict]]:
    """The same of a file's lines, or of those of the standard input; blank ones are none."""
    name = "standard input" if path is None or str(path) == "-" else str(path)
    try:
        file = path.open("rb") if path is not None and name != "standard input" else sys.stdin.buffer
    except OSError as error:
        raise UserError(f"--file: {path} cannot be read: {error.strerror}") from None
    return parsed(file, name, first, more)


def parsed(file, name: str, first: str, more: dict) -> Iterator[tuple[str, dict]]:
    with file:
        for number, line in enumerate(file, 1):
            where = f"{name}, line {number}"
            try:
                text = line.decode("utf-8-sig").strip()
                record = json.loads(text) if text.startswith("{") else {first: text}
            except UnicodeDecodeError:
                raise UserError(f"{where}: not UTF-8: save it as UTF-8") from None
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{where}: not valid JSON: {error}: a line that begins with {{ is a JSON object"
                ) from None
            if text:
                yield where, {**more, **record}


def row_of(task: Task, record: dict, columns: dict[str, str], where: str) -> Row:
    """A row of the task without its answer. Fields of a record go by their own names or by those of the task's columns;
    words may be a text. ``given``: the fields as the user gave them, with blanks at their ends.
    """
    names = {field: column if column in record else field for field, column in columns.items()}
    if "words" in names and isinstance(record.get(names["words"]), str):
        record, names = {"text": record[names["words"]]}, {"text": "text"}
    if missing := [name for name in names.values() if name not in record]:
        raise UserError(f"{where}: no {missing[0]}: expected {' and '.join(columns)}")
    try:
        row = task.parse_record(record, settings.Table.model_validate({"location": "-", **names}), labelled=False)
        return {**row, "given": {field: record[name] for field, name in names.items()}}
    except BadRecordError as error:
        raise UserError(f"{where}: {error}") from None


if __name__ == "__main__":
    stage.report_errors_in_one_line()
    stage.imports_are_done()
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # on Windows the default is another encoding
    try:
        main()
    except BrokenPipeError:  # whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
