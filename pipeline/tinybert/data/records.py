"""From the records of a source to the checked rows of a task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import first_ten, log
from pipeline.tinybert.core.settings import Table
from pipeline.tinybert.data.rows import Row

if TYPE_CHECKING:
    from pipeline.tinybert.tasks import Task

Records = Iterable[tuple[str, dict]]
GENERAL = ("location", "config", "delimiter", "quotes", "where")
OF_SOURCES = ("group", "splits", "more_tests", "submissions")
OF_TEXT = ("split", "sentences", "limit")


class BadRecordError(Exception):
    """What is wrong with one record, said without its place."""


def checked(task: Task, records: Records, source: Table, key: str, labelled: bool = True) -> list[Row]:
    """Records as rows, each with ``where`` it stands. UserError names the first ten bad ones, and how many more.

    A row may say under ``repaired`` what was mended in it; that is counted and said.
    """
    rows, bad, repaired = [], [], []
    for where, record in records:
        try:
            row = task.row(record, source, labelled)
            if labelled and source.group is not None:
                row["group"] = _group_of(record, source.group)
        except BadRecordError as error:
            bad.append(f"{where}: {error}")
            continue
        if repair := row.pop("repaired", None):
            repaired.append(f"{where}: {repair}")
        rows.append({**row, "where": where})
    if bad:
        raise UserError(f"{key}: {first_ten(bad)}")
    if repaired:
        log(f"{key}: {len(repaired)} rows repaired: {first_ten(repaired)}")
    return rows


def _group_of(record: dict, column: str) -> str:
    group = record[column]
    if group is None or group != group or not str(group).strip():
        raise BadRecordError(f"column '{column}': no group")
    return str(group)


def check_source(task: Task, source: Table, key: str) -> None:
    """Raise UserError where a source's settings name what this kind of task does not read."""
    if isinstance(getattr(source, "label", None), list) and not task.label_columns:
        raise UserError(f"{key}.label: expected one column, found a list: only multi_label reads several")
    if getattr(source, "submissions", None) and not task.has_submissions:
        raise UserError(f"{key}.submissions: this kind of task has no such files: leave them out")
    known = {*GENERAL, *OF_SOURCES, *OF_TEXT, *task.columns, *task.details}
    for name in sorted(source.model_fields_set - known):
        raise UserError(f"{key}.{name}: no setting of this kind of task, which reads {', '.join(task.columns)}")


def column_names(task: type[Task] | Task, source: Table, labelled: bool = True) -> dict[str, Any]:
    """The columns that a kind reads of a source, by what they are for."""
    names = {field: getattr(source, field, None) or default for field, default in task.columns.items()}
    return {
        field: name for field, name in names.items() if name is not None and (labelled or field not in task.targets)
    }


def text_of(record: dict, column: Any, what: str = "text") -> str:
    """A text of a record, stripped; BadRecordError where it is missing, empty, or none."""
    text = record[column]
    if text is None or (isinstance(text, float) and text != text):
        raise BadRecordError(f"column '{column}': empty {what}")
    if not isinstance(text, str):
        raise BadRecordError(f"column '{column}': expected text, found {type(text).__name__} {text!r}")
    if not text.strip():
        raise BadRecordError(f"column '{column}': empty {what}")
    return text.strip()
