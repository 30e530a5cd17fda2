"""A file of probabilities in a teacher's place: of a language model or a service that can only be asked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Table
from pipeline.tinybert.data import locations, readers
from pipeline.tinybert.data.records import BadRecordError
from pipeline.tinybert.models.known_logits import KnownLogits
from pipeline.tinybert.tasks import Task
from pipeline.tinybert.tasks.texts import Texts

KEY = "finetune_teacher.predictions"


def read(task: Task, location: str, within: Path) -> KnownLogits:
    """The class logits of each row of the file. Raises UserError, which names the line, if a row is invalid.

    A row has the ``id`` of a prepared row, or its ``text`` (and ``pair``); and the probability of each class in a
    column of its name, or all of them in an object ``probabilities``. Regression has a ``score``.
    """
    if not isinstance(task, Texts):
        raise UserError(f"{KEY}: only tasks with one prediction for a text may have a file: remove the setting")
    path = locations.local_path(location, KEY, within)
    known = KnownLogits(task)
    found_at: dict[Any, str] = {}
    for where, record in readers.records(path, Table.model_validate({"location": location}), KEY):
        try:
            key, logits = _key(task, record, known), _logits(task, record)
        except BadRecordError as error:
            raise UserError(f"{KEY}: {path.name}, {where}: {error}") from None
        if not np.allclose(known.by_key.setdefault(key, logits), logits, atol=1e-3):
            raise UserError(
                f"{KEY}: {path.name}, {where}: the same row as {found_at[key]}, but other numbers: keep one of them"
            )
        found_at.setdefault(key, where)
    if not known.by_key:
        raise UserError(f"{KEY}: {path.name} has no rows")
    return known


def _key(task: Task, record: dict, known: KnownLogits) -> str:
    if record.get("id") is not None:
        return known.key_of_id(str(record["id"]))
    if record.get("text") is None:
        raise BadRecordError("no 'id' and no 'text': expected one of them")
    pair = "pair" if record.get("pair") is not None else None
    columns = Table.model_validate({"location": "-", "text": "text", "pair": pair})
    return known.key_of_text(task.parse_record(record, columns, labelled=False))


def _logits(task: Texts, record: dict) -> np.ndarray:
    """(C,): logarithms of the probabilities; the number itself for regression."""
    values: Any = record.get("probabilities")
    values = values if isinstance(values, dict) else record
    names = task.labels
    if missing := [name for name in names if values.get(name) is None]:
        raise BadRecordError(f"no number for '{missing[0]}': expected one for each of {', '.join(names)}")
    if values is not record and (others := set(values) - set(names)):
        raise BadRecordError(f"'{min(others)}' is no class of the task: expected {', '.join(names)}")
    numbers = np.array([_number(values[name], name) for name in names])
    return task.logits_of_probabilities(numbers)


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRecordError(f"'{name}': expected a number, found {value!r}")
    return number
