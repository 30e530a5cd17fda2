"""What the student says of texts: ``python -m pipeline.predict <task> "text" …`` prints an answer a line, as JSON.

Without texts on the command line it reads a file (``--file``) or the standard input, a text or a JSON object a line,
and answers each as it comes. ``--context`` is the passage of all the questions, ``--pair`` the second text.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.data.records import BadRecordError, column_names
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.release import onnx_model
from pipeline.tinybert.tasks.task import Task
from pipeline.tinybert.training import fine_tuning

Outputs = Callable[[dict[str, torch.Tensor]], Any]


def main() -> None:
    given, configuration = arguments(), settings.load()
    name, wanted = given.task, configuration.task(given.task)
    file = built(Path("models", name, "onnx", checkpoints.FILES[given.model]), name)
    task = tasks.load(built(Path("data", name, "prepared", "task.json"), name), wanted, name)
    threshold = json.loads(built(Path("metrics", name, "export.json"), name).read_text(encoding="utf-8"))["threshold"]
    columns = column_names(task, wanted.source, labelled=False)
    asked = records(given, list(columns))
    tokenizer, outputs = checkpoints.tokenizer(file.parent), model(task, file)
    print(f"{given.model} model of {name}: {file}", file=sys.stderr, flush=True)
    for where, record in asked:
        row = row_of(task, record, columns, where)
        with contextlib.redirect_stdout(sys.stderr):  # notes, of what is cut for example
            [said], logits = answered(task, row, tokenizer, outputs)
            [said] = task.decided([said], threshold)
        shown = next(iter(columns))
        print(json.dumps({shown: row[shown], **task.answer(row, said, logits)}, ensure_ascii=False), flush=True)


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


def model(task: Task, file: Path) -> Outputs:
    """A function from a batch to the model's outputs."""
    if file.suffix == ".onnx":
        running = onnx_model.session(file)
        return lambda batch: onnx_model.run(running, batch)
    student = task.load_model(file.parent).eval()

    def outputs(batch: dict[str, torch.Tensor]) -> Any:
        with torch.inference_mode(), fine_tuning.last_layer_first_position_only(task, student):
            return student(**batch)

    return outputs


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
        file = sys.stdin.buffer if name == "standard input" else path.open("rb")
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
    words may be a text.
    """
    names = {field: column if column in record else field for field, column in columns.items()}
    if "words" in names and isinstance(record.get(names["words"]), str):
        record, names = {"text": record[names["words"]]}, {"text": "text"}
    if missing := [name for name in names.values() if name not in record]:
        raise UserError(f"{where}: no {missing[0]}: expected {' and '.join(columns)}")
    try:
        return task.row(record, settings.Table(location="-", **names), labelled=False)
    except BadRecordError as error:
        raise UserError(f"{where}: {error}") from None


def answered(task: Task, row: Row, tokenizer, outputs: Outputs) -> tuple[list, list[np.ndarray]]:
    """What the model says of a row, and its class logits (kept, C) of each of the row's sequences."""
    encoded = fine_tuning.columns(task, [row], tokenizer)
    collate, kept = Collator(tokenizer), []
    for number, mask in enumerate(encoded["kept"]):  # one by one: int8's scales are those of a batch
        batch = collate([{name: values[number] for name, values in encoded.items()}])
        logits = task.class_logits(outputs({name: batch[name] for name in tokenizer.model_input_names}))
        kept.append(logits[0].float().numpy()[np.flatnonzero(mask)])
    return task.predictions(kept, encoded, [row]), kept


if __name__ == "__main__":
    stage.report_errors_in_one_line()
    stage.imports_are_done()
    sys.stdout.reconfigure(encoding="utf-8")  # which on Windows it is not
    try:
        main()
    except BrokenPipeError:  # whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
