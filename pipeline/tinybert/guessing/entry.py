"""A task's entry: its values, guessed from a file, and its text in params.yaml."""

import argparse
import io
import re
from typing import Any

import numpy as np
import ruamel.yaml

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import first_ten
from pipeline.tinybert.core.settings import Settings, Source, Task
from pipeline.tinybert.data.cells import flat, split_named
from pipeline.tinybert.guessing import files, kinds
from pipeline.tinybert.guessing.columns import Columns, Guess, Reason, is_empty, words
from pipeline.tinybert.tasks import KINDS

COLUMNS = ("text", "pair", "label", "words", "tags", "entities", "question", "passage", "answers", "group")
SPLITS = ("train", "validation", "test")
LENGTHS = (32, 64, 128, 256, 384, 512)
WORD_PIECES_OF_A_WORD = 1.5
UNLABELLED_ROWS = 50_000
# Layers of the student, with a narrow feed-forward part, where the default's are too few. With 500 questions of SQuAD,
# three full layers kept half of the teacher's F1, and six narrow ones, which need about as many operations, all.
NARROW_LAYERS, FEED_FORWARD_SHARE = 6, 0.5  # share of the hidden width
MORE_STEPS = 3000  # of `distill_prediction` for entities: they gain from more steps than the default of 1,500
LONG = 3  # unlabelled texts are cut into sentences if they are this many times as long as the task's own
PRODIGYS_ANSWERS = {"accept", "reject", "ignore"}
RUN = re.compile(r"^run:[ \t]*(\[[^\]]*\]|(?:#.*)?(?:(?:\r?\n[ \t]*(?:#.*)?)*\r?\n[ \t]*-.*)+)", re.MULTILINE)


def guess(given: argparse.Namespace, defaults: Settings) -> tuple[dict[str, Any], list[Reason]]:
    """The entry's values from the options of `new_task`, and the reason for each choice. ``defaults``: the settings of
    params.yaml, which the entry does not lower.
    """
    dialect, records, chosen, split_column = _read_without_split_column(given)
    splits = {split: file for split in SPLITS if (file := getattr(given, split))}
    kind, found = kinds.guess(records, chosen, given.kind, given.group)
    more = {key: value for key in ("group", "bad_rows") if (value := getattr(given, key))}
    more |= {"split_column": split_column} if split_column else {}
    length, reason_of_length = _max_length(found)
    values = {
        "kind": kind,
        "options": found.options,
        "source": {**files.location(given.name, splits), **dialect, **found.source, **more},
        "metric": given.metric or found.metric,
        "max_length": length if given.max_length is None else given.max_length,
    }
    reasons = [Reason("kind", kind), *(Reason(key, repr(value)) for key, value in dialect.items()), *found.reasons]
    if split_column:
        reasons.append(Reason("split_column", f"'{split_column}' names the split of each row"))
    used = {*map(str, flat(found.source.values())), given.group}
    reasons += [*_not_read(records, used, found.reasons), reason_of_length]
    for_student, its_reasons = _student(kind, "pair" in found.source, defaults)
    values |= for_student
    reasons = _options_as_given(given, [*reasons, *its_reasons])
    if given.unlabelled:
        values["unlabelled"], reason = _unlabelled(given, kind, found)
        reasons.append(reason)
    elif KINDS[kind].reads_texts and "pair" not in found.source:
        text = "general text (augment.general_texts); texts like yours are better: give them with --unlabelled"
        reasons.append(Reason("unlabelled", text))
    return values, reasons


def _read_without_split_column(given: argparse.Namespace) -> tuple[dict[str, Any], list[dict], dict[str, Any], Any]:
    """How to read the file; its records, without the column that names their splits; the columns that the user chose;
    the name of the column of splits, or None.
    """
    dialect, records = files.read(given.train, "--file", given.delimiter)
    chosen = _chosen(given, list(records[0]))
    split_column = _column_of_splits(records, [given.group, *flat(chosen.values())])
    if split_column:
        if others := [split for split in SPLITS if split != "train" and getattr(given, split)]:
            raise UserError(
                f"--{others[0]}: column '{split_column}' of --file names the split of each row, too: put all rows into"
                " one file with this column, or remove the column and the rows of other splits"
            )
        records = [{name: value for name, value in row.items() if name != split_column} for row in records]
    return dialect, records, chosen, split_column


def _options_as_given(given: argparse.Namespace, reasons: list[Reason]) -> list[Reason]:
    """Replace the reasons for a metric or maximum length that the user gave by 'as given'."""
    options = {key: value for key in ("metric", "max_length") if (value := getattr(given, key)) is not None}
    kept = [reason for reason in reasons if reason.key not in options]
    return [*kept, *(Reason(key, f"{value} (as given)") for key, value in options.items())]


def _column_of_splits(records: list[dict], others: list[Any]) -> Any:
    """The column whose cells name splits, train and others; None if there is none. Raises UserError if fewer than half
    of its cells name none: rows of test must not be trained on.
    """
    for name in records[0]:
        cells = [row[name] for row in records] if name not in others else []
        odd = [cell for cell in cells if split_named(cell) is None]
        if len(set(map(split_named, cells)) - {None}) < 2 or "train" not in map(split_named, cells):
            continue
        if not odd:
            return name
        if 2 * len(odd) < len(cells):
            raise UserError(
                f"--file: column '{name}' names the split of most rows, and {odd[0]!r} is none: expected train,"
                " validation or test: correct the value, or remove these rows"
            )
    return None


def _student(kind: str, is_pair: bool, defaults: Settings) -> tuple[dict[str, Any], list[Reason]]:
    """Groups for a student's shape and training where the defaults are too little for its kind, and the reasons."""
    shape, steps = defaults.general_student.shape, defaults.distill_prediction.min_steps
    values: dict[str, Any] = {}
    reasons = []
    compares_words = is_pair or kind in ("named_entities", "question_answering")
    if compares_words and shape.layers < NARROW_LAYERS and defaults.general_student.start != "checkpoint":
        narrow = {"layers": NARROW_LAYERS, "feed_forward": int(FEED_FORWARD_SHARE * shape.hidden)}
        values = {"general_student": {"shape": narrow}}
        text = f"{NARROW_LAYERS} narrow layers: fewer layers lose most on pairs, entities, questions"
        reasons = [Reason("general_student", text)]
    if kind == "named_entities" and steps is not None and steps < MORE_STEPS:
        values["distill_prediction"] = {"min_steps": MORE_STEPS}
        text = f"at least {MORE_STEPS} steps: entities need more than other kinds"
        reasons.append(Reason("distill_prediction", text))
    return values, reasons


def _chosen(given: argparse.Namespace, columns: list) -> dict[str, Any]:
    """What the user gave for keys of `source`. A column without a name goes by its number."""
    found: dict[str, Any] = {key: value for key in ("scheme", "separator") if (value := getattr(given, key))}
    by_text = {str(column): column for column in columns}
    for key in (key for key in COLUMNS if getattr(given, key)):
        texts = np.atleast_1d(getattr(given, key)).tolist()
        if missing := [text for text in texts if text not in by_text]:
            raise UserError(f"--{key}: {given.train} has no column '{missing[0]}' (it has: {', '.join(by_text)})")
        names = [by_text[text] for text in texts]
        if key != "group":
            found[key] = names if len(names) > 1 else names[0]
    return found


def _not_read(records: list[dict], used: set[str], reasons: list[Reason]) -> list[Reason]:
    """Reasons on the columns that the task does not use and that ``reasons`` do not name."""
    unused = [name for name in records[0] if str(name) not in used]
    verdicts = {str(row["answer"]) for row in records if not is_empty(row["answer"])} if "answer" in unused else set()
    found = []
    if verdicts <= PRODIGYS_ANSWERS and verdicts - {"accept"}:
        text = "'answer' has rows that were rejected or ignored: set `where: {answer: accept}` in the task's source"
        found.append(Reason("DOUBTFUL", text))
    named = {name for reason in reasons for name in reason.columns}
    if others := [name for name in unused if name not in named]:
        found.append(Reason("not read", first_ten(list(map(repr, others)), ", ")))
    return found


def _max_length(guess: Guess) -> tuple[int, Reason]:
    most = float(np.percentile([words(text) for text in guess.texts], 95))
    pieces = WORD_PIECES_OF_A_WORD * most
    length = next((length for length in LENGTHS if pieces <= length <= guess.longest), guess.longest)
    text = f"{length} (95 % of the texts have at most {most:.0f} words, about {pieces:.0f} word pieces)"
    return length, Reason("max_length", text)


def _unlabelled(given: argparse.Namespace, kind: str, guess: Guess) -> tuple[dict[str, Any], Reason]:
    dialect, records = files.read(given.unlabelled, "--unlabelled", given.delimiter, min_columns=1)
    inputs = KINDS[kind].fields(Source(location="-", **guess.source), labelled=False)
    wanted = {field: guess.source[field] for field in inputs if field in guess.source}
    columns, sentences = Columns(records, {}, kind_is_given=True), False
    if missing := [name for name in flat(wanted.values()) if name not in columns.names]:
        if len(wanted) > 1 or not columns.text_columns():
            raise UserError(f"--unlabelled: {given.unlabelled} has no column '{missing[0]}', which the rows have")
        wanted = {"text": columns.text_columns()[0]}
    if list(wanted) == ["text"]:
        median = np.median([words(text) for text in guess.texts])
        sentences = sum(map(columns.median_length, flat([wanted["text"]]))) > LONG * median
    where = files.location(given.name, {"train": given.unlabelled})
    values = {**where, **dialect, **wanted, **({"sentences": True} if sentences else {}), "limit": UNLABELLED_ROWS}
    of_sentences = ", cut into sentences as the texts are long" if sentences else ""
    text = f"columns {', '.join(map(str, flat(wanted.values())))} ({len(records)} rows{of_sentences})"
    return values, Reason("unlabelled", text)


def with_entry(params: str, name: str, values: dict[str, Any]) -> str:
    """The text of params.yaml with a further task at the end of `tasks`. Every other byte stays.

    Keys that ``values`` lacks are blank, as DVC needs every key.
    """
    lines = params.splitlines(keepends=True)
    start = next((number for number, line in enumerate(lines) if re.match(r"tasks:\s*(#|$)", line)), None)
    if start is None:
        raise UserError("params.yaml: expected a line `tasks:` and below it an indented entry for each task")
    end = next((number for number in range(start + 1, len(lines)) if lines[number][0] not in " #\r\n"), len(lines))
    while not lines[end - 1].strip() or lines[end - 1].startswith("#"):  # they belong to the group that follows
        end -= 1
    first = next((line for line in lines[start + 1 : end] if line.strip()), "  ")
    indent = first[: len(first) - len(first.lstrip())]
    text = io.StringIO()
    ruamel.yaml.YAML().dump({name: {key: values.get(key) for key in Task.model_fields}}, text)
    newline = "\r\n" if "\r\n" in params else "\n"
    lines[end - 1] = lines[end - 1].rstrip("\r\n") + newline
    entry = [newline] * (end - 1 > start) + [f"{indent}{line}{newline}" for line in text.getvalue().splitlines()]
    return "".join([*lines[:end], *entry, *lines[end:]])


def without_entry(params: str, name: str) -> str:
    """The text of params.yaml without the entry of this task. Every other byte stays."""
    lines, groups = params.splitlines(keepends=True), ruamel.yaml.YAML().load(params)
    first = groups["tasks"].lc.key(name)[0]
    keys = [found.lc.key(key)[0] for found in (groups, groups["tasks"]) for key in found]
    end = min((line for line in keys if line > first), default=len(lines))
    while not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#"):  # they belong to the key that follows
        end -= 1
    return "".join(lines[:first] + lines[end:])


def with_run(params: str, name: str) -> str:
    """The text of params.yaml with ``name`` as the only task to run."""
    is_text = isinstance(ruamel.yaml.YAML(typ="safe", pure=True).load(name), str)  # not 123, null or 1e5
    changed, count = RUN.subn(f"run: [{name}]" if is_text else f"run: ['{name}']", params, count=1)
    if not count:
        raise UserError(f"params.yaml: the list `run` cannot be changed here: set it to [{name}] yourself")
    return changed
