"""What the student says of texts: ``python -m pipeline.predict <task> "text" …`` prints an answer a line, as JSON.

Without texts on the command line it reads a file (``--file``) or the standard input, a text or a JSON object a line,
and answers each as it comes. ``--context`` is the passage of all the questions, ``--pair`` the second text.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.tinybert import models, onnx_model, settings, stage, tasks, training
from pipeline.tinybert.batches import Collator
from pipeline.tinybert.rows import Row
from pipeline.tinybert.stage import UserError
from pipeline.tinybert.tasks.task import BadRecordError, Task, column_names

FILES = {"pytorch": "student/model.safetensors", "onnx": "onnx/model.onnx", "int8": "onnx/model_int8.onnx"}
STAGES = {"pytorch": "distill_prediction", "onnx": "export", "int8": "export"}
Outputs = Callable[[dict[str, torch.Tensor]], Any]


def main() -> None:
    given = arguments()
    name, configuration = given.task, settings.load()
    wanted = configuration.task(name)
    task = tasks.load(built(Path("data", name, "prepared", "task.json"), f"prepare@{name}"), wanted, name)
    file = built(Path("models", name, FILES[given.model]), f"{STAGES[given.model]}@{name}")
    threshold = threshold_of(task, name)
    tokenizer, outputs = models.tokenizer(file.parent), model(task, file)
    print(f"{given.model} model of {name}: {file}", file=sys.stderr, flush=True)
    fields = list(column_names(task, wanted.source, labelled=False))
    for where, record in records(given, fields):
        row = row_of(task, record, fields, where)
        [said], logits = answered(task, row, tokenizer, outputs)
        [said] = task.decided([said], threshold)
        print(json.dumps({fields[0]: row[fields[0]], **task.answer(row, said, logits)}, ensure_ascii=False), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.predict", description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("texts", nargs="*", metavar="text")
    parser.add_argument("--model", choices=FILES, default="onnx", help="onnx unless given")
    parser.add_argument("--context", "--pair", dest="other", metavar="TEXT", help="a passage, or a second text, of all")
    parser.add_argument("--file", type=Path, help="a text or a JSON object a line; -: the standard input")
    given = parser.parse_args()
    if given.texts and given.file:
        raise UserError("texts and --file: give one of them")
    return given


def built(path: Path, target: str) -> Path:
    if not path.exists():
        raise UserError(f"{path} is not built yet: run `dvc repro {target}`, or `dvc pull`")
    return path


def threshold_of(task: Task, name: str) -> float | None:
    if not task.needs_threshold:
        return None
    scores = built(Path("metrics", name, "scores.json"), f"evaluate@{name}")
    return json.loads(scores.read_text(encoding="utf-8"))["student"]["threshold"]


def model(task: Task, file: Path) -> Outputs:
    """A function from a batch to the model's outputs."""
    if file.suffix == ".onnx":
        running = onnx_model.session(file)
        return lambda batch: onnx_model.run(running, batch)
    student = task.load_model(file.parent).eval()

    def outputs(batch: dict[str, torch.Tensor]) -> Any:
        with torch.inference_mode(), training.reading(task, student):
            return student(**batch)

    return outputs


def records(given: argparse.Namespace, fields: list[str]) -> Iterator[tuple[str, dict]]:
    """What is asked, field → value, and where it stands."""
    first, *second = fields
    more = dict.fromkeys(second, given.other) if given.other is not None else {}
    if given.other is not None and not second:
        raise UserError("--context, --pair: this task is about one text")
    for number, text in enumerate(given.texts, 1):
        yield f"text {number}", {first: text, **more}
    if given.texts:
        return
    with lines(given.file) as file:
        for number, line in enumerate(file, 1):
            where = f"{given.file or 'standard input'}, line {number}"
            if line.strip():
                yield where, {**more, **(parsed(line, where) if line.lstrip().startswith("{") else {first: line})}


def lines(file: Path | None):
    if file is None or str(file) == "-":
        return nullcontext(sys.stdin)
    try:
        return open(file, encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"--file: {file} cannot be read: {error.strerror}") from None


def parsed(line: str, where: str) -> dict:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON: {error}") from None


def row_of(task: Task, record: dict, fields: list[str], where: str) -> Row:
    """A row of the task without its answer. Fields go by their own names or by those of the kind's columns."""
    names = {"passage": "context", "words": "text"}  # that people also use
    named = {field: field if field in record else names.get(field, field) for field in fields}
    if missing := [field for field, name in named.items() if name not in record]:
        raise UserError(f"{where}: no {missing[0]}: expected {' and '.join(fields)}")
    if isinstance(record.get("words"), str):
        record, named = {"text": record["words"]}, {"words": "text"}
    if named.get("words") == "text":
        named = {"text": "text"}
    try:
        return task.row(record, settings.Table(location="-", **named), labelled=False)
    except BadRecordError as error:
        raise UserError(f"{where}: {error}") from None


def answered(task: Task, row: Row, tokenizer, outputs: Outputs) -> tuple[list, list[np.ndarray]]:
    """What the model says of a row, and its class logits (kept, C) of each of the row's sequences."""
    encoded = training.columns(task, [row], tokenizer)
    count = len(encoded["input_ids"])
    batch = Collator(tokenizer)([{name: values[number] for name, values in encoded.items()} for number in range(count)])
    inputs = {name: batch[name] for name in tokenizer.model_input_names}
    logits = task.class_logits(outputs(inputs)).float().numpy()
    kept = [values[np.flatnonzero(mask)] for values, mask in zip(logits, encoded["kept"], strict=True)]
    return task.predictions(kept, encoded, [row]), kept


if __name__ == "__main__":
    stage.end_in_one_line()
    try:
        main()
    except BrokenPipeError:  # whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
