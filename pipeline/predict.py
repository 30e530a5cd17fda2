"""The student's predictions for texts: ``python -m pipeline.predict <task> "text" …`` prints one JSON object per text.

Without texts on the command line it reads a file (``--file``) or the standard input. A table (.csv, .tsv, .parquet, …)
has the columns of the task's source; the delimiter and the quotes of a CSV file may be others. In a .jsonl file, each
line is a JSON object; in any other file and on the standard input, each line is a text or a JSON object. ``--context``
is the passage of all questions, ``--pair`` the second text of all pairs.

There is one answer for each input, in order: its first field, the fields that the task does not read, and the
prediction. ``--output`` writes a file with all fields of the input and the prediction. If the prediction has a field of
the same name, that of the input becomes ``input_<name>`` (or ``input_input_<name>`` if the input has that, too). For an
invalid input the answer is ``{"error": …}``, and the exit code is 1. Without ``--file`` and ``--output``, each line is
answered as soon as it is read.
"""

import argparse
import contextlib
import functools
import io
import itertools
import json
import sys
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log_count, stop_printing
from pipeline.tinybert.core.output import read_json
from pipeline.tinybert.data.cells import BadRecordError, flat, list_in_text
from pipeline.tinybert.data.rows import Row, blocks, parse_json
from pipeline.tinybert.models.formats import FILES
from pipeline.tinybert.release import answer_files, release_folder
from pipeline.tinybert.release.stand_alone import ANSWERS, Model, with_free_names
from pipeline.tinybert.tasks.task import Task

JSON_LINES = (".jsonl", ".ndjson")
BY_LINE = (*JSON_LINES, ".txt")  # not tables
FALLBACK_FIELD = {"words": "text"}  # a field → the one that a record may have in its place
BLOCK = 1024  # inputs of a file that are answered together
BATCH = {"pytorch": 32, "onnx": 32, "int8": 1}  # int8 activations are scaled over the whole batch
Columns = dict[str, Any]  # field → the source's column, or a list of columns whose texts are joined
Input = tuple[str, dict | BadRecordError]  # the position of a record in the input, and the record
Inputs = Iterator[Input]


def main() -> None:
    options, stdout = parse_arguments(), sys.stdout
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as around:  # notes go to the standard error
        configuration = settings.load()
        name, task_settings = options.task, configuration.task(options.task)
        file = require_built(Path("models", name, "onnx", FILES[options.model]), name)
        require_built(Path("data", name, "prepared", "task.json"), name)
        task = tasks.load(configuration, name)
        check_made_for(task, file.parent, name)
        report = read_json(require_built(Path("metrics", name, "export.json"), name))
        columns = task.column_names(task_settings.source, labelled=False)
        hidden = {*columns, *flat(columns.values())}  # the task reads them, so answers do not repeat them
        inputs = read_inputs(options, columns, task_settings.source)
        serving = release_folder.serving_settings(task, task_settings, report["threshold"])
        model = around.enter_context(open_model(task, file, serving))
        print(f"{options.model} model of {name}: {file}", file=sys.stderr, flush=True)
        if options.output:
            write = around.enter_context(answer_files.open_file(options.output, serving["kind"]))
        bad, total, first_bad = 0, 0, ""
        answers_each_line = str(options.file or "-") == "-" and not options.output  # someone waits for each answer
        for block in blocks(inputs, 1 if answers_each_line else BLOCK):
            answers = answer_block(task, columns, model, block, BATCH[options.model], file)
            errors = [answer["error"] for _, answer in answers if "error" in answer]
            bad, total, first_bad = bad + len(errors), total + len(block), first_bad or "".join(errors[:1])
            records = [record if isinstance(record, dict) else {} for _, record in block]
            if options.output:
                pairs = zip(records, answers, strict=True)
                write([with_fields(record, answer, serving["kind"]) for record, (_, answer) in pairs])
                continue
            for record, (row, answer) in zip(records, answers, strict=True):
                shown = {**first_field(row, columns), **with_fields(record, answer, serving["kind"], hidden)}
                print(json.dumps(shown, ensure_ascii=False, default=str), file=stdout, flush=answers_each_line)
        longer = f"texts are longer than the model reads (max_length: {task.max_length}) and are cut"
        log_count(model.truncated, total, longer)
    if not total:
        print("no text to answer", file=sys.stderr)
    if bad:
        raise UserError(f"{bad} of {total} could not be answered: {first_bad}")


def answer_block(
    task: Task, columns: Columns, model: Model, block: list[Input], batch_size: int, file: Path
) -> list[tuple[Row | None, dict]]:
    """For each input, in order: its row (None if it is invalid), and the prediction or ``{"error": …}``."""
    found: list[tuple[Row | None, dict]] = []
    for where, record in block:
        try:
            found.append((to_row(task, record, columns), {}))
        except BadRecordError as error:
            found.append((None, {"error": f"{where}: {error}"}))
    rows = [row for row, _ in found if row is not None]
    try:
        predictions = iter(model.predict([release_folder.to_served(row) for row in rows], batch_size))
    except ValueError as error:
        raise UserError(f"{file}: {error}: run `dvc repro`, or train again with a smaller learning rate") from error
    return [(row, error if row is None else next(predictions)) for row, error in found]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.predict", description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("texts", nargs="*", metavar="text")
    parser.add_argument("--model", choices=FILES, default="onnx", help="default: onnx")
    parser.add_argument(
        "--context", "--pair", dest="other", metavar="TEXT", help="the passage of all questions, or all second texts"
    )
    parser.add_argument("--file", type=Path, help="a table, or one text or JSON object per line; -: the standard input")
    written = ", ".join(answer_files.WRITERS)
    parser.add_argument("--output", type=Path, help=f"the file to write ({written}); default: print")
    options = parser.parse_intermixed_args()  # texts may follow options
    if options.texts and options.file:
        raise UserError("texts and --file: give one of them")
    return options


def require_built(path: Path, name: str) -> Path:
    if not path.exists():
        raise UserError(f"{path} is not built yet: run `dvc repro export@{name}`, or `dvc pull`")
    return path


def check_made_for(task: Task, folder: Path, name: str) -> None:
    """Raise UserError if the model in ``folder`` was made for another kind, other labels or shorter texts than the task
    has now: its outputs would get wrong names.
    """
    config = read_json(folder / "config.json")
    longest = read_json(folder / "tokenizer_config.json")["model_max_length"]
    architecture, head = config["architectures"][0], task.head_name.removeprefix("AutoModel")
    wanted = json.loads(json.dumps(task.head_options()))  # as JSON has it: the keys of id2label are texts
    problem, labels = wanted.get("problem_type"), wanted.get("id2label", {}).values()
    differs = None
    if not architecture.endswith(head):
        differs = architecture, head
    elif problem and config.get("problem_type") != problem:
        differs = config.get("problem_type"), problem
    elif wanted and config["id2label"] != wanted["id2label"]:
        differs = f"the labels {', '.join(config['id2label'].values())}", ", ".join(labels)
    elif task.max_length > longest:
        differs = f"at most {longest} word pieces", str(task.max_length)
    if differs:
        raise UserError(
            f"{folder} was made for {differs[0]}, the task now has {differs[1]}: run `dvc repro export@{name}`"
        )


@contextlib.contextmanager
def open_model(task: Task, file: Path, serving: dict) -> Iterator[Model]:
    """The model in a file of any format. ``serving``: `release_folder.serving_settings`."""
    if file.suffix == ".onnx":
        try:
            model = Model(file.parent, file.name, serving)
        except Exception as error:  # onnxruntime's exceptions have no public base class
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{file} cannot be loaded: {reason}: run `dvc repro` or `dvc pull`") from error
        yield model
        return
    import torch  # slow to import, and the other formats do not need it

    from pipeline.tinybert.models import checkpoints
    from pipeline.tinybert.models.inference import pytorch_forward

    names = checkpoints.tokenizer(file.parent).model_input_names
    with pytorch_forward(task, task.load_model(file.parent)) as forward:

        def compute(inputs: dict) -> Any:
            return forward({name: torch.from_numpy(values) for name, values in inputs.items()}).float().cpu().numpy()

        yield Model(file.parent, settings=serving, forward=compute, inputs=names)


def read_inputs(options: argparse.Namespace, columns: Columns, source: settings.Source) -> Inputs:
    """The texts of the command line, of a file or of the standard input, as records: field or column → value."""
    text_field, *other_fields = columns
    if options.other is not None and not other_fields:
        raise UserError("--context, --pair: this task reads one text only: remove the option")
    shared_fields = dict.fromkeys(other_fields, options.other) if options.other is not None else {}
    if options.texts:
        return ((f"text {number}", {text_field: text, **shared_fields}) for number, text in enumerate(options.texts, 1))
    if options.file is None or str(options.file) == "-":
        return records_of_lines(sys.stdin.buffer, "standard input", text_field, shared_fields)
    from pipeline.tinybert.data import readers  # slow to import

    suffix = options.file.suffix.lower()
    if suffix in readers.READERS and suffix not in BY_LINE:
        return records_of_table(options.file, columns, source, shared_fields)
    try:
        lines = options.file.open("rb")
    except OSError as error:
        raise UserError(f"--file: {options.file} cannot be read: {error.strerror}") from None
    return records_of_lines(lines, str(options.file), None if suffix in JSON_LINES else text_field, shared_fields)


def records_of_table(path: Path, columns: Columns, source: settings.Source, shared_fields: dict) -> Inputs:
    """The records of a table. ``shared_fields``: fields that all records get."""
    from pipeline.tinybert.data import readers

    table = with_detected_dialect(path, columns, source, shared_fields)
    for number, (position, record) in enumerate(readers.records(path, table, "--file")):
        known = {**shared_fields, **record}
        if number == 0 and (missing := missing_columns(known, columns)):
            raise UserError(
                f"--file: {path} has no column '{missing[0]}' (it has: {', '.join(map(str, record))}): name it as in"
                " the task's source"
            )
        yield f"{path}, {position}", known


def missing_columns(record: dict, columns: Columns) -> list:
    """The columns of the source that a record has neither under their names nor under those of their fields."""
    return [
        name
        for field, column in columns.items()
        for name in flat([column])
        if not {field, name, FALLBACK_FIELD.get(field)} & record.keys()
    ]


def with_detected_dialect(
    path: Path, columns: Columns, source: settings.Source, shared_fields: dict
) -> settings.Source:
    """The source with the delimiter and the quotes of a CSV or TSV file, which may not be those of the training file:
    the first with which all records can be read and have the columns. The source as it is if there are none.
    """
    from pipeline.tinybert.data import readers

    if path.suffix.lower() in readers.USUAL_DELIMITER:
        for quotes, delimiter in itertools.product((None, False), (None, *readers.DELIMITERS)):
            table = source.model_copy(update={"delimiter": delimiter, "quotes": quotes})
            with contextlib.suppress(UserError), contextlib.redirect_stdout(io.StringIO()):  # answering logs the same
                if is_plausible_dialect(path, columns, table, source.quotes is False, shared_fields):
                    return table
    return source


def is_plausible_dialect(
    path: Path, columns: Columns, table: settings.Source, training_quotes_are_literal: bool, shared_fields: dict
) -> bool:
    """Whether the file can be read with this delimiter and quoting. Every record must have the task's columns.

    Quoting on (``quotes: None``): if quotes are literal in the training file, no cell may span several lines.
    Quoting off (``quotes: False``): each column needs a cell that is not wholly in quotes; unless quotes are literal in
    the training file, no cell may begin with a quote and hold an odd number of quotes.
    Raises UserError if a record is invalid.
    """
    from pipeline.tinybert.data import readers

    all_columns: set[Any] = set()
    columns_with_unquoted_cell: set[Any] = set()
    for _, record in readers.records(path, table, "--file"):
        cells = [cell for cell in record.values() if cell]
        if missing_columns({**shared_fields, **record}, columns):
            return False
        if training_quotes_are_literal:
            if table.quotes is None and any("\n" in cell for cell in cells):
                return False
        elif table.quotes is False and any(cell[0] == '"' and cell.count('"') % 2 for cell in cells):
            return False
        all_columns |= record.keys()
        columns_with_unquoted_cell |= {
            name for name, cell in record.items() if cell is None or not cell[:1] == cell[-1:] == '"'
        }
    return table.quotes is None or all_columns == columns_with_unquoted_cell


def records_of_lines(lines: Iterable[bytes], name: str, text_field: str | None, shared_fields: dict) -> Inputs:
    """The record of each line that is not blank: a JSON object, or the text of the field ``text_field`` (None: every
    line must be a JSON object). ``shared_fields``: fields that all records get.
    """
    for number, line in enumerate(lines, 1):
        if number == 1 and b"\0" in line:
            raise UserError(f"{name} is not UTF-8 text, but compressed, a spreadsheet or UTF-16: save it as UTF-8 text")
        try:
            text = line.decode("utf-8-sig").strip()
            if "\0" in text:
                raise BadRecordError("a NUL character, which no text has")
            record: Any = parse_json(text) if text.startswith("{") else {text_field: text}
            if text and text_field is None and not text.startswith("{"):
                record = BadRecordError(f"expected a JSON object, found {text[:50]!r}")
        except BadRecordError as error:
            record = error
        except UnicodeDecodeError:
            record = BadRecordError("not UTF-8: save it as UTF-8")
        except ValueError as error:
            record = BadRecordError(f"not valid JSON: {error}: a line that begins with {{ is a JSON object")
        if record != {text_field: ""}:  # a blank line
            yield f"{name}, line {number}", {**shared_fields, **record} if isinstance(record, dict) else record


def to_row(task: Task, record: dict | BadRecordError, columns: Columns) -> Row:
    """A row of the task without its label. The keys of a record are fields of the task or columns of its source. Words
    may be a text, or a list written as text, or missing if there is a ``text``. The row's ``given`` has the fields as
    the user wrote them, not stripped.

    Raises BadRecordError if the record is invalid.
    """
    if isinstance(record, BadRecordError):
        raise record
    source_of_field = {
        field: column if not record.keys().isdisjoint(flat([column])) else field for field, column in columns.items()
    }
    record, source_of_field = words_or_text(record, source_of_field)
    single_columns = {field: name for field, name in source_of_field.items() if not isinstance(name, list)}
    if missing := [name for name in single_columns.values() if name not in record]:
        raise BadRecordError(f"no {missing[0]}: expected {' and '.join(columns)}")
    row = task.parse_record(record, table_of(json.dumps(source_of_field)), labelled=False)
    check_unicode(row)
    return {**row, "given": {field: record[name] for field, name in single_columns.items()}}


def words_or_text(record: dict, source_of_field: Columns) -> tuple[dict, Columns]:
    """Replace words that are given as one text, in the field of the words or in ``text``: by ``words`` if the text is a
    written list, otherwise by ``text``. Other records stay as they are.
    """
    if "words" not in source_of_field:
        return record, source_of_field
    words = record.get(source_of_field["words"])
    if words is None:
        words = record.get(FALLBACK_FIELD["words"])
    if not isinstance(words, str):
        return record, source_of_field
    if listed := list_in_text(words):
        return {"words": listed}, {"words": "words"}
    return {"text": words}, {"text": "text"}


def check_unicode(row: Row) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BadRecordError("a character is not valid Unicode (half of a surrogate pair, or not UTF-8)") from None


@functools.cache
def table_of(source_of_field: str) -> settings.Table:
    """A source with these columns (JSON: field → column). Its validation takes longer than an answer: cached."""
    return settings.Table.model_validate({"location": "-", **json.loads(source_of_field)})


def first_field(row: Row | None, columns: Columns) -> dict:
    """The first field that the task reads, with its value; nothing for an invalid row."""
    first = next(iter(columns))
    return {first: row.get(first, row["given"].get(first))} if row else {}


def with_fields(record: dict, answer: dict, kind: str, hidden: Container[Any] = ()) -> dict:
    """The fields of a record that are not ``hidden``, and its answer. A field that has the name of an answer field is
    renamed to input_…, also where the answer is an error: otherwise an input label would look like a prediction.
    """
    taken = {*ANSWERS[kind], *answer_files.ERROR}
    fields = {str(name): value for name, value in record.items() if name not in hidden}  # a CoNLL file numbers columns
    return {**with_free_names(fields, taken), **answer}


if __name__ == "__main__":
    stage.imports_are_done()
    # The default encoding is not UTF-8 on Windows, and a file name may have bytes that are not UTF-8.
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    try:
        main()
        sys.stdout.flush()  # here, and not when Python ends: then it would print a warning
    except BrokenPipeError:
        stop_printing()
