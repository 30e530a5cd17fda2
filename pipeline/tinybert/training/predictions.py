"""A file of predictions in a teacher's place: from a language model or a service that only returns predictions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import first_ten, log
from pipeline.tinybert.core.settings import Source, Table
from pipeline.tinybert.data import locations, readers
from pipeline.tinybert.data.cells import BadRecordError, text_of, value_in_text
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models.known_logits import KnownLogits
from pipeline.tinybert.tasks import Task
from pipeline.tinybert.tasks.texts import FIELDS, Texts

KEY = "finetune_teacher.predictions"
DEDUPLICATED = ("train", "validation", "unlabelled")
LEAST_ROWS = 20  # of a split in which a teacher that makes no mistake is doubtful
Parts = dict[str, list[Row]]  # the splits of the task, and its unlabelled rows


def read(task: Task, location: str, within: Path, parts: Parts) -> KnownLogits:
    """The class logits of each row of the file. Logs how many rows of each part the file has, and which of its
    rows fit none or have no prediction.

    A row has the ``id`` of a row of the task, or its ``text`` (and ``pair``); and the probability of each class in a
    column of its name, or all of them in an object ``probabilities``, or a ``label``. Regression has a ``score``.
    Raises UserError, which names the line, if a row is invalid, and if the file has no row of train.
    """
    if not isinstance(task, Texts):
        raise UserError(f"{KEY}: only tasks with one prediction for a text may have a file: remove the setting")
    path = locations.local_path(location, KEY, within)
    known = KnownLogits(task)
    of_task = {row["id"]: row for rows in parts.values() for row in rows}
    deduplicated = {row["id"] for part in DEDUPLICATED for row in parts.get(part, [])}
    found_at: dict[str, str] = {}  # key → line
    unknown_ids, blank, only_ids, count = [], [], 0, 0
    columns: dict[str, None] = {}  # of all rows, in their order
    for where, record, row, logits in _parsed(task, path, of_task):
        count += 1
        columns |= dict.fromkeys(record)
        if logits is None:
            blank.append(where)
            continue
        only_ids += not _is_given(record, "text")
        if row is None:
            unknown_ids.append(where)
            continue
        is_one_of_several = "id" in row and row["id"] not in deduplicated
        key = known.key_of_row(row) if is_one_of_several else known.key_of_text(row)
        found_at.setdefault(key, where)
        _check_agreement(path, known.by_key.setdefault(key, logits), logits, where, found_at[key])
    _log_blank(task, path, blank, count)
    misfits = [*unknown_ids, *_check_fit(known, parts, path, found_at)]
    if misfits:
        log(f"{len(misfits)} of {count} rows of {path.name} fit no row of {', '.join(parts)}: {first_ten(misfits)}")
    if only_ids:
        log(
            f"{only_ids} of {count} rows of {path.name} have an id and no text: ids change with the data, so these"
            " predictions belong to other rows if the data has changed since: add the column 'text' to be sure"
        )
    _log_own_labels(task, known, parts, path, columns)
    _add_texts(known, of_task.values())
    return known


def _parsed(
    task: Texts, path: Path, of_task: dict[str, Row]
) -> Iterator[tuple[str, dict, Row | None, np.ndarray | None]]:
    """For each record of the file: its line, the record, its row and its class logits; None for what it lacks."""
    table = readers.with_delimiter_of_header(path, Table.model_validate({"location": "-"}))
    for where, record in readers.records(path, table, KEY):
        try:
            row, logits = _row(task, record, of_task), _logits(task, record)
        except BadRecordError as error:
            raise UserError(f"{KEY}: {path.name}, {where}: {error}") from None
        yield where, record, row, logits


def _log_blank(task: Texts, path: Path, blank: list[str], count: int) -> None:
    """Log which of ``count`` rows have no prediction. Raises UserError if none has one."""
    if not count:
        raise UserError(f"{KEY}: {path.name} has no rows")
    if len(blank) == count:
        raise UserError(f"{KEY}: {path.name}, {blank[0]}: {_no_number(task, task.labels[0])}")
    if blank:
        log(f"{len(blank)} of {count} rows of {path.name} have no prediction and count as missing: {first_ten(blank)}")


def _check_fit(known: KnownLogits, parts: Parts, path: Path, found_at: dict[str, str]) -> list[str]:
    """Log how many rows of the task are in the file. Returns the lines of the file that fit no row."""
    counts, misfits = dict.fromkeys(parts, 0), dict(found_at)
    for part, rows in parts.items():
        for row in rows:
            given = [key for key in known.keys(row) if key in found_at]
            counts[part] += bool(given)
            for key in given:
                misfits.pop(key, None)
                one, other = known.by_key[given[0]], known.by_key[key]
                _check_agreement(path, one, other, found_at[given[0]], found_at[key])
    if not counts["train"]:
        raise UserError(
            f"{KEY}: {path.name} has none of the {len(parts['train'])} rows of train: give ids or texts of rows in"
            " data/<task>/prepared/train.jsonl"
        )
    found = ", ".join(f"{counts[part]} of {len(rows)} rows of {part}" for part, rows in parts.items())
    log(f"{path.name} has predictions for {found}")
    return list(misfits.values())


def _log_own_labels(task: Texts, known: KnownLogits, parts: Parts, path: Path, columns: Iterable[str]) -> None:
    """Log if the file has the label of each row itself, as if a teacher made no mistake: files of answers often keep
    the labels that they began with.
    """
    own = []
    for part in ("train", "test") if task.has_probabilities else ():
        answered = [(row, logits) for row in parts.get(part, []) if (logits := known.of(row)) is not None]
        if len(answered) >= LEAST_ROWS and all(
            np.array_equal(logits, _logits_of_labels(task, task.labels_in(row))) for row, logits in answered
        ):
            own.append(f"all {len(answered)} rows of {part}")
    if own:
        unread = [str(name) for name in columns if name not in {"id", *FIELDS, "probabilities", "label", *task.labels}]
        log(
            f"DOUBTFUL: {path.name} has the task's own labels for {' and '.join(own)}: give the teacher's answers in"
            " the column 'label'" + (f" (columns that are not read: {', '.join(unread)})" if unread else "")
        )


def _add_texts(known: KnownLogits, rows: Iterable[Row]) -> None:
    """Store the logits of each row under its text, too, so that they are found if ids change; not if rows with the same
    text have different logits.
    """
    of_text: dict[str, list[np.ndarray]] = {}
    for row in rows:
        if (logits := known.by_key.get(known.key_of_row(row))) is not None:
            of_text.setdefault(known.key_of_text(row), []).append(logits)
    for key, several in of_text.items():
        if all(np.array_equal(several[0], logits) for logits in several):
            known.by_key.setdefault(key, several[0])


def _check_agreement(path: Path, one: np.ndarray, other: np.ndarray, where: str, elsewhere: str) -> None:
    if not np.allclose(one, other, atol=1e-3):
        raise UserError(
            f"{KEY}: {path.name}, {where}: the same row as {elsewhere}, but other numbers: keep one of them"
        )


def _row(task: Task, record: dict, of_task: dict[str, Row]) -> Row | None:
    """The task's row with the id of a record; if there is none, a row with the record's texts; None without a text."""
    row = of_task.get(str(record.get("id")))
    if row is not None:
        _check_texts(record, row)
        return row
    if not _is_given(record, "text"):
        if not _is_given(record, "id"):
            raise BadRecordError("no 'id' and no 'text': expected one of them")
        return None
    pair = "pair" if _is_given(record, "pair") else None
    columns = Table.model_validate({"location": "-", "text": "text", "pair": pair})
    return task.parse_record(record, columns, labelled=False)


def _check_texts(record: dict, row: Row) -> None:
    """Raise BadRecordError if the record has another text than the row with its id: `prepare` has given new ids."""
    for field in FIELDS:
        if field in row and _is_given(record, field) and text_of(record, field) != row[field]:
            raise BadRecordError(
                f"'{field}' is not that of the row {row['id']}, {row[field][:50]!r}: leave out the ids, or make the"
                " predictions again"
            )


def _logits(task: Texts, record: dict) -> np.ndarray | None:
    """(C,): logarithms of the probabilities; the number itself for regression. None if the record has neither numbers
    nor a label.
    """
    values: Any = record.get("probabilities")
    if isinstance(values, str):  # a column of a CSV file
        values = value_in_text(values)
    if isinstance(values, dict) and values:
        _check_classes(task, [name for name in values if _is_given(values, name)])
    elif _is_given(record, "probabilities"):
        raise BadRecordError(
            f"'probabilities' is {record['probabilities']!r}: expected an object with a number for each class"
        )
    else:
        values = record
    names = task.labels
    missing = [name for name in names if not _is_given(values, name)]
    if missing == names:
        return _of_label(task, record) if task.has_probabilities and _has_label(task, record) else None
    if missing:
        raise BadRecordError(_no_number(task, missing[0]))
    return task.logits_of_probabilities(np.array([_number(values[name], name) for name in names]))


def _no_number(task: Texts, name: str) -> str:
    one = f"one for each of {', '.join(task.labels)}, or a 'label'" if task.has_probabilities else "one"
    return f"no number for '{name}': expected {one}"


def _has_label(task: Texts, record: dict) -> bool:
    """Whether the record has a label. With several labels for a row, a blank text means that none applies."""
    label = record.get("label")
    is_blank = isinstance(label, str) and not label.strip()
    return label is not None and label == label and not (task.has_one_class and is_blank)


def _of_label(task: Texts, record: dict) -> np.ndarray:
    """(C,): the class logits for the record's label or labels."""
    source = Source.model_validate({"location": "-", "label": "label"})
    labels = task.labels_in({"label": task.label(record, source)})
    _check_classes(task, labels)
    return _logits_of_labels(task, labels)


def _logits_of_labels(task: Texts, labels: list[str]) -> np.ndarray:
    """(C,): those of probability 1 for these labels, 0 for the others."""
    return task.logits_of_probabilities(np.array([float(name in labels) for name in task.labels]))


def _check_classes(task: Texts, names: list[str]) -> None:
    if others := set(names) - set(task.labels):
        raise BadRecordError(f"'{min(others)}' is no class of the task: expected {', '.join(task.labels)}")


def _is_given(record: dict, column: str) -> bool:
    """Whether the record has a value: a table has a cell for each column, perhaps blank or NaN."""
    value = record.get(column)
    return value is not None and value == value and value != ""


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRecordError(f"'{name}': expected a number, found {value!r}")
    return number
