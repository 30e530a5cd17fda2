"""Read the splits of a task's source, drop duplicates, and check that train has all labels."""

import difflib
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import SHOWN, first_ten, log
from pipeline.tinybert.core.settings import Source, Text
from pipeline.tinybert.data import sources
from pipeline.tinybert.data.cells import as_seen, flat, split_named
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.preparation.records import (
    BadRowsError,
    Records,
    advice_on_bad_rows,
    check_source,
    log_dropped,
    parse_records,
)
from pipeline.tinybert.tasks import Task

MOST_CERTAIN_LABELS = 20  # more labels than this, in nearly as many rows, may come from a wrong column
NEAR = 0.8  # least similarity of a misspelt label and the right one
SPLITS = ("train", "validation", "test")
Parts = dict[str, list[Row]]


@dataclass(frozen=True)
class SourceRows:
    """All rows of a source.

    ``parts``: its splits; only ``train`` if the settings name no splits.
    ``more_tests``: further labelled test sets.
    ``submissions``: unlabelled test sets of which predictions are written; they keep all their rows, in order.
    """

    parts: Parts
    more_tests: Parts
    submissions: Parts


def read(task: Task, source: Source, key: str) -> SourceRows:
    """Read and validate all splits of a source. Each row gets an ``id`` and its position under ``where``.

    Raises one UserError for the errors of all splits.
    """
    check_source(task, source, key)
    places = _places(source, key)
    errors: list[UserError] = []

    def read_split(name: str, of_split: Source, location: str | None, labelled: bool = True) -> list[Row]:
        try:
            return _read_split(task, of_split, location, name, key, labelled)
        except UserError as error:
            errors.append(error)
            return []

    rows = SourceRows(
        {name: read_split(name, *places[name]) for name in SPLITS if name in places},
        {name: read_split(name, source, location) for name, location in source.more_tests.items()},
        {name: read_split(name, source, location, labelled=False) for name, location in source.submissions.items()},
    )
    if errors:
        advice = advice_on_bad_rows(key) if any(isinstance(error, BadRowsError) for error in errors) else ""
        raise UserError("; ".join(dict.fromkeys(map(str, errors))) + advice)  # one of the source occurs once per split
    return rows


def _places(source: Source, key: str) -> dict[str, tuple[Source, str | None]]:
    """For each split of the source, the settings that select its rows, and its file or its split of the hub."""
    if source.split_column is not None:
        names = _names_of_splits(source, source.split_column, key)
        places: dict[str, tuple[Source, str | None]] = {
            split: (source.model_copy(update={"where": {**source.where, source.split_column: found}}), None)
            for split, found in names.items()
        }
    else:
        locations: Mapping[Any, str | None] = source.splits or {"train": None}
        places = {split: (source, location) for split, location in locations.items()}
    if "train" not in places:
        raise UserError(
            f"{key}.{'splits' if source.splits else 'split_column'}: no 'train' (it has: {', '.join(places)})"
        )
    return places


def _names_of_splits(source: Source, column: str, key: str) -> dict[str, list[str]]:
    """For each split, the values of the column that name it."""
    names: dict[str, list[str]] = {}
    values: dict[str, str] = {}  # a value → the first row with it
    for where, record in sources.records(source, None, [column], key):
        values.setdefault(str(record[column]), where)
    for value, where in values.items():
        if (split := split_named(value)) is None:
            raise UserError(
                f"{key}.split_column: {where}: column '{column}': expected train, validation or test, found {value!r}:"
                f" correct the value, or leave such rows out: where: {{{column}: [train, …]}}"
            )
        names.setdefault(split, []).append(value)
    return names


def _read_split(
    task: Task, source: Source, location: str | None, split: str, key: str, labelled: bool = True
) -> list[Row]:
    records = sources.records(source, location, needed_columns(task, source, labelled), key)
    rows = parse_records(task, records, source, key, labelled, split)
    return [{"id": f"{split}-{number}", **row} for number, row in enumerate(rows)]


def needed_columns(task: Task, source: Source, labelled: bool = True) -> list[Any]:
    """The columns that a source must have: those that the task kind reads, and the group column."""
    columns = flat(task.column_names(source, labelled).values())
    return [*columns, *([source.group] if labelled and source.group is not None else [])]


def drop_duplicates(task: Task, parts: Parts, more_tests: Parts) -> Parts:
    """Drop rows of train and validation that occur earlier in their split or in a later split.

    Given test sets are never deduplicated, so that scores stay comparable with published ones.
    """
    first_seen: dict[Hashable, tuple[str, Row]] = {}  # key → (split, row)
    for name, rows in reversed([("test", parts.get("test", [])), *more_tests.items()]):
        first_seen |= {task.duplicate_key(row): (name, row) for row in rows}
    unique: Parts = {}
    for split in (name for name in ("validation", "train") if name in parts):
        unique[split] = []
        duplicates: dict[str, list[tuple[Row, Row]]] = {}  # split of the original → (duplicate, original) pairs
        for row in parts[split]:
            key = task.duplicate_key(row)
            if key in first_seen:
                owner, original = first_seen[key]
                duplicates.setdefault(owner, []).append((row, original))
            else:
                first_seen[key] = split, row
                unique[split].append(row)
        for owner, pairs in duplicates.items():
            _log_dropped(task, split, owner, pairs)
    return {split: unique.get(split, parts[split]) for split in SPLITS if split in parts}


def _log_dropped(task: Task, split: str, owner: str, pairs: list[tuple[Row, Row]]) -> None:
    """Log dropped rows. ``pairs``: (duplicate, original); ``owner``: the split of the originals."""
    relabelled = [
        row["where"] for row, original in pairs if any(row[name] != original[name] for name in task.target_fields)
    ]
    log(
        f"{split}: {len(pairs)} duplicate rows dropped: their text "
        + ("occurs earlier" if owner == split else f"is also in {owner}")
        + (f"; {len(relabelled)} of them have another label there: {first_ten(relabelled)}" if relabelled else "")
    )


def log_shared_groups(task: Task, parts: Parts) -> None:
    """Log groups that are in train and also in another split. This happens only if the source names its splits."""
    groups = {name: {group_of(task, row) for row in rows} - {None} for name, rows in parts.items()}
    for name, of_split in groups.items():
        shared = of_split & groups["train"]
        if shared and name != "train":
            log(f"{name}: {len(shared)} of its {len(of_split)} groups are also in train: scores on it may be too high")


def group_of(task: Task, row: Row) -> str | None:
    """The group of a row, which is never divided between splits; None if it has none."""
    return row.get("group", task.group(row))


def wrong_column_hint(labels: list[list[str]]) -> str:
    """For a message: asks whether the column is right if nearly each row has a label of its own; otherwise empty.

    ``labels``: the labels of each row.
    """
    different = {label for of_row in labels for label in of_row}
    if len(different) <= max(MOST_CERTAIN_LABELS, sum(map(len, labels)) / 2):
        return ""
    return f". There are {len(different)} different labels in {len(labels)} rows: is `label` the right column?"


def spelling_hint(label: str, known: Iterable[str]) -> str:
    """For a message: the known label that a misspelt one may mean."""
    by_folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(label.casefold(), by_folded, n=1, cutoff=NEAR)
    return f"; did you mean '{by_folded[near[0]]}'?" if near else ""


def check_labels(task: Task, parts: Parts, source: Source, key: str) -> Parts:
    """The parts without rows that have a label that train lacks. Raises UserError unless the source drops bad rows."""
    train = {label for row in parts["train"] for label in task.labels_in(row)}
    checked = {}
    for split, rows in parts.items():
        checked[split] = [row for row in rows if train.issuperset(task.labels_in(row))]
        if len(checked[split]) == len(rows):
            continue
        unknown: dict[str, list[str]] = {}  # label → positions of its rows
        for row in rows:
            for label in sorted(set(task.labels_in(row)) - train):
                unknown.setdefault(label, []).append(row["where"])
        refusal = (
            f"{key}: {split} has labels that no row of train has: "
            + first_ten(
                [f"'{label}' ({first_ten(at)}{spelling_hint(label, train)})" for label, at in sorted(unknown.items())]
            )
            + f"; train has {first_ten(sorted(train), ', ')}"
        )
        if source.bad_rows != "drop":
            raise UserError(
                f"{refusal}: correct the labels, add rows with them to train, or remove these rows:"
                f" {key}.bad_rows: drop leaves them out"
                + wrong_column_hint([task.labels_in(row) for row in parts["train"]])
            )
        for label, at in sorted(unknown.items())[:SHOWN]:
            log(f"  '{label}', which no row of train has: {first_ten(at)}")
        kinds = Counter({f"label '{label}', which no row of train has": len(at) for label, at in unknown.items()})
        log_dropped(split, len(rows) - len(checked[split]), len(checked[split]), kinds, refusal)
    return checked


def log_labels_written_differently(labels: list[str], key: str) -> None:
    """Log groups of labels that look alike: they differ in upper and lower case, in blanks or characters that are not
    seen, or in the form of a number or a character.
    """
    groups: dict[Any, list[str]] = {}
    for label in labels:
        try:
            groups.setdefault(float(label), []).append(label)
        except ValueError:
            groups.setdefault(as_seen(label).casefold(), []).append(label)
    for group in groups.values():
        if len(group) > 1:
            names = " and ".join(f"'{label}'" if as_seen(label) == label else ascii(label) for label in sorted(group))
            log(f"{key}: DOUBTFUL: {names} are different labels: if they are the same, write them alike in the file")


def check_variety(task: Task, parts: Parts, drawn: Collection[str], key: str) -> None:
    """Check that the rows of each split differ in their labels: on rows of a single class, scores say nothing.

    Raises UserError for a validation file of a single class: most often the file was sorted by label and cut. Without
    it, a better validation split is drawn. Logs a warning for test sets and for the splits ``drawn`` from train.
    """
    for split, rows in parts.items():
        # In tasks on words or passages, rows with equal labels still tell models apart.
        labels = {repr(row["label"]) if task.uses_first_position_only else row["id"] for row in rows}
        has_none = any(map(task.labels_in, parts["train"])) and not any(map(task.labels_in, rows))
        if split == "train" or (len(labels) > 1 and not has_none):
            continue
        if len(rows) == 1:
            log(f"DOUBTFUL: {key}: {split} has a single row, so scores on it say nothing: bring more")
            continue
        found = "no label" if has_none else f"the label {rows[0]['label']!r}"
        problem = f"all {len(rows)} rows of {split} have {found}, so scores on them say nothing"
        if split == "validation" and split not in drawn:
            raise UserError(
                f"{key}: {problem}, and cannot select a model: add rows with other labels, or name no validation split,"
                " so that it is split off train"
            )
        advice = ": bring more rows with other labels" if split in drawn else ""
        log(f"DOUBTFUL: {key}: {problem}{advice}")


def read_unlabelled(task: Task, labelled: Source, source: Text | None, parts: Parts, seed: int, key: str) -> list[Row]:
    """The task's unlabelled rows, without duplicates and without rows that occur in a split."""
    if source is None:
        return []
    check_source(task, source, key)
    if (labelled.pair is None) != (source.pair is None):
        raise UserError(f"{key}.pair: either both or none of the task's labelled and unlabelled rows must be pairs")
    columns = task.column_names(source, labelled=False)
    if set(columns) == {"text"}:
        texts = sources.texts(source, seed, key)
        first, *others = flat(columns.values())  # joined already
        records: Records = (
            (f"text {number}", {first: text, **dict.fromkeys(others)}) for number, text in enumerate(texts, 1)
        )
    else:
        if source.sentences:
            raise UserError(f"{key}.sentences: only single texts can be split into sentences: remove the setting")
        records = sources.sample(source, flat(columns.values()), seed, key)
    known = {task.duplicate_key(row) for rows in parts.values() for row in rows}
    try:
        rows = [
            _without(row, "where")
            for row in parse_records(task, records, source, key, labelled=False, split="unlabelled")
        ]
    except BadRowsError as error:
        raise UserError(f"{error}{advice_on_bad_rows(key)}") from None
    new = list({task.duplicate_key(row): row for row in rows if task.duplicate_key(row) not in known}.values())
    if len(new) < len(rows):
        dropped = len(rows) - len(new)
        log(f"unlabelled: {dropped} duplicate rows dropped: their text is also in a labelled or another unlabelled row")
    return [{"id": f"unlabelled-{number}", **row} for number, row in enumerate(new)]


def _without(row: Row, *keys: str) -> Row:
    return {name: value for name, value in row.items() if name not in keys}


def without_internal_fields(rows: list[Row]) -> list[Row]:
    """Rows without the fields that only `prepare` needs."""
    return [_without(row, "where", "group") for row in rows]
