"""A file of predictions in a teacher's place: from a language model or a service that only returns predictions."""

from __future__ import annotations

import math
from collections.abc import Iterable
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
Parts = dict[str, list[Row]]  # the splits of the task, and its unlabelled rows


def read(task: Task, location: str, within: Path, parts: Parts) -> KnownLogits:
    """The class logits of each row of the file. Logs how many rows of each part the file has, and which of its
    rows fit none.

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
    unknown_ids, only_ids, count = [], 0, 0
    for where, record in readers.records(path, Table.model_validate({"location": location}), KEY):
        try:
            row, logits = _row(task, record, of_task), _logits(task, record)
        except BadRecordError as error:
            raise UserError(f"{KEY}: {path.name}, {where}: {error}") from None
        count += 1
        only_ids += not _is_given(record, "text")
        if row is None:
            unknown_ids.append(where)
            continue
        is_one_of_several = "id" in row and row["id"] not in deduplicated
        key = known.key_of_row(row) if is_one_of_several else known.key_of_text(row)
        found_at.setdefault(key, where)
        _check_agreement(path, known.by_key.setdefault(key, logits), logits, where, found_at[key])
    if not count:
        raise UserError(f"{KEY}: {path.name} has no rows")
    misfits = [*unknown_ids, *_check_fit(known, parts, path, found_at)]
    if misfits:
        log(f"{len(misfits)} of {count} rows of {path.name} fit no row of {', '.join(parts)}: {first_ten(misfits)}")
    if only_ids:
        log(
            f"{only_ids} of {count} rows of {path.name} have an id and no text: ids change with the data, so these"
            " predictions belong to other rows if the data has changed since: add the column 'text' to be sure"
        )
    _add_texts(known, of_task.values())
    return known


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


def _logits(task: Texts, record: dict) -> np.ndarray:
    """(C,): logarithms of the probabilities; the number itself for regression."""
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
    if task.has_probabilities and missing == names and record.get("label") is not None:
        return task.logits_of_probabilities(_of_label(task, record))
    if missing:
        one = f"one for each of {', '.join(names)}, or a 'label'" if task.has_probabilities else "one"
        raise BadRecordError(f"no number for '{missing[0]}': expected {one}")
    return task.logits_of_probabilities(np.array([_number(values[name], name) for name in names]))


def _of_label(task: Texts, record: dict) -> np.ndarray:
    """(C,): probability 1 for the record's label or labels, 0 for the others."""
    source = Source.model_validate({"location": "-", "label": "label"})
    labels = task.labels_in({"label": task.label(record, source)})
    _check_classes(task, labels)
    return np.array([float(name in labels) for name in task.labels])


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
