"""Conversion of a source's records (column → value) into validated rows of a task."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import SHOWN, first_ten, log
from pipeline.tinybert.core.settings import Source, Table
from pipeline.tinybert.data.rows import Row, parse_json

if TYPE_CHECKING:
    from pipeline.tinybert.tasks import Task

Records = Iterable[tuple[str, dict]]
TABLE_SETTINGS = ("location", "config", "delimiter", "quotes", "where")
SOURCE_SETTINGS = ("group", "splits", "more_tests", "submissions")
TEXT_SETTINGS = ("split", "sentences", "limit")


class BadRecordError(Exception):
    """One record is invalid. The message does not contain its position; the caller adds it."""


def parse_records(task: Task, records: Records, source: Table, key: str, labelled: bool = True) -> list[Row]:
    """Convert records into rows. Each row gets its position under ``where``.

    A row with the field ``repaired`` was corrected by the task: the field is removed, and the repairs are logged.
    Raises UserError if records are invalid. The first ten are logged, one a line, and what the valid ones hold.
    """
    rows, bad, repaired = [], [], []
    for where, record in records:
        try:
            row = task.parse_record(record, source, labelled)
            if labelled and isinstance(source, Source) and source.group is not None:
                row["group"] = _group_of(record, source.group)
        except BadRecordError as error:
            bad.append(f"{where}: {error}")
            continue
        if repair := row.pop("repaired", None):
            repaired.append(f"{where}: {repair}")
        rows.append({**row, "where": where})
    if bad:
        for line in [*bad[:SHOWN], *([f"and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else [])]:
            log(f"  {line}")
        if rows:
            log(f"{key}: {len(rows)} other rows are valid" + (f": {task.summary(rows)}" if labelled else ""))
        listed = f"{len(bad)} of {len(bad) + len(rows)} rows are invalid, as listed above; the first: "
        raise UserError(f"{key}: {listed if len(bad) > 1 else ''}{bad[0]}")
    if repaired:
        log(f"{key}: {len(repaired)} rows repaired: {first_ten(repaired)}")
    return rows


def _group_of(record: dict, column: str) -> str:
    group = record[column]
    if group is None or group != group or not str(group).strip():  # only NaN differs from itself
        raise BadRecordError(f"column '{column}': no group")
    return str(group)


def check_source(task: Task, source: Table, key: str) -> None:
    """Raise UserError if a source has a setting that this kind of task does not read."""
    if isinstance(getattr(source, "label", None), list) and not task.accepts_label_columns:
        raise UserError(f"{key}.label: expected one column, found a list: only multi_label reads several")
    if getattr(source, "submissions", None) and not task.has_submissions:
        raise UserError(f"{key}.submissions: this kind of task has no submission files: remove the setting")
    known = {*TABLE_SETTINGS, *SOURCE_SETTINGS, *TEXT_SETTINGS, *task.columns, *task.source_settings}
    for name in sorted(source.model_fields_set - known):
        raise UserError(f"{key}.{name}: this kind of task reads only {', '.join(task.columns)}: remove the setting")


def column_names(task: type[Task] | Task, source: Table, labelled: bool = True) -> dict[str, Any]:
    """The columns that a task kind reads from a source, as field → column name."""
    names = {field: getattr(source, field, None) or default for field, default in task.columns.items()}
    return {
        field: name
        for field, name in names.items()
        if name is not None and (labelled or field not in task.target_fields)
    }


def text_of(record: dict, column: Any, what: str = "text") -> str:
    """The text in a column, without surrounding white space. Raises BadRecordError if it is missing, empty or not text.

    ``what``: the name of the text in the message.
    """
    text = record[column]
    if text is None or (isinstance(text, float) and text != text):
        raise BadRecordError(f"column '{column}': empty {what}")
    if not isinstance(text, str):
        raise BadRecordError(f"column '{column}': expected text, found {type(text).__name__} {text!r}")
    if not text.strip():
        raise BadRecordError(f"column '{column}': empty {what}")
    return text.strip()


def list_in_text(text: str) -> list | None:
    """The list that a text holds as JSON or as Python, which pandas writes into a CSV file; None if there is none."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        return parse_json(text)
    except ValueError:
        pass
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return found if str(found) == text else None  # Python reads ['a' 'b'], as numpy writes a list, as ['ab']
