"""Conversion of a source's records (column → value) into validated rows of a task."""

from collections import Counter
from collections.abc import Iterable

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import SHOWN, first_ten, log
from pipeline.tinybert.core.settings import Source, Table
from pipeline.tinybert.data.cells import BadRecordError
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.tasks import Task

Records = Iterable[tuple[str, dict]]
TABLE_SETTINGS = ("location", "config", "delimiter", "quotes", "where", "bad_rows")
SOURCE_SETTINGS = ("group", "splits", "split_column", "more_tests", "submissions")
TEXT_SETTINGS = ("split", "sentences", "limit")


class BadRowsError(UserError):
    """A source has invalid rows, and its settings do not say to drop them."""


def parse_records(
    task: Task, records: Records, source: Table, key: str, labelled: bool = True, split: str = "train"
) -> list[Row]:
    """Convert records into rows. Each row gets its position under ``where``.

    A row with the field ``repaired`` was corrected by the task: the field is removed, and the repairs are logged.
    Invalid records are dropped if the source says so; otherwise this raises BadRowsError. Either way, the first ten are
    logged, one per line. ``split``: what the rows are for.
    """
    rows: list[Row] = []
    bad: list[tuple[str, BadRecordError]] = []
    repaired = []
    for where, record in records:
        try:
            row = task.parse_record(record, source, labelled)
            if labelled and isinstance(source, Source) and source.group is not None:
                row["group"] = _group_of(record, source.group)
        except BadRecordError as error:
            bad.append((where, error))
            continue
        if repair := row.pop("repaired", None):
            repaired.append(f"{where}: {repair}")
        rows.append({**row, "where": where})
    if bad:
        more = [f"and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
        for line in [*(f"{where}: {error}" for where, error in bad[:SHOWN]), *more]:
            log(f"  {line}")
        listed = f"{len(bad)} of {len(bad) + len(rows)} rows are invalid, as listed above; the first: "
        refusal = f"{key}: {listed if len(bad) > 1 else ''}{bad[0][0]}: {bad[0][1]}"
        # A benchmark's server expects a prediction for each row of a submission.
        if source.bad_rows != "drop" or (isinstance(source, Source) and not labelled):
            if rows:
                log(f"{key}: {len(rows)} other rows are valid" + (f": {task.summary(rows)}" if labelled else ""))
            raise BadRowsError(refusal)
        log_dropped(split, len(bad), len(rows), Counter(error.kind for _, error in bad), refusal)
    if repaired:
        log(f"{key}: {len(repaired)} rows repaired: {first_ten(repaired)}")
        if 2 * len(repaired) > len(rows):
            log(
                f"{key}: DOUBTFUL: most rows are repaired, as listed: check the offsets (characters from 0, not bytes;"
                " an end is the index after the last character) and the empty cells"
            )
    return rows


def log_dropped(split: str, dropped: int, kept: int, kinds: Counter[str], refusal: str) -> None:
    """Log how many invalid rows of a split are dropped, by kind. Raises UserError with ``refusal`` if most are."""
    if dropped > kept:
        raise UserError(f"{refusal}: too many to drop (`bad_rows`): is a column or a setting wrong?")
    by_kind = first_ten([f"{count} × {kind}" for kind, count in kinds.most_common()])
    log(f"{split}: {dropped} of {dropped + kept} rows are invalid and dropped (`bad_rows: drop`): {by_kind}")
    if split not in ("train", "validation", "unlabelled"):
        log(f"{split}: DOUBTFUL: scores are on the {kept} valid rows: do not compare them with scores on all rows")


def advice_on_bad_rows(key: str) -> str:
    return f": correct or remove these rows, or set {key}.bad_rows: drop, which leaves them out and counts them"


def _group_of(record: dict, column: str) -> str:
    group = record[column]
    if group is None or group != group or not str(group).strip():  # only NaN differs from itself
        raise BadRecordError(f"column '{column}': no group")
    return str(group).strip()


def check_source(task: Task, source: Table, key: str) -> None:
    """Raise UserError if a source has a setting that this kind of task does not read."""
    if isinstance(getattr(source, "label", None), list) and not task.accepts_label_columns:
        raise UserError(f"{key}.label: expected one column, found a list: only multi_label reads several")
    if getattr(source, "submissions", None) and not task.has_submissions:
        raise UserError(f"{key}.submissions: this kind of task has no submission files: remove the setting")
    known = {*TABLE_SETTINGS, *SOURCE_SETTINGS, *TEXT_SETTINGS, *task.columns, *task.source_settings}
    for name in sorted(source.model_fields_set - known):
        raise UserError(f"{key}.{name}: this kind of task reads only {', '.join(task.columns)}: remove the setting")
