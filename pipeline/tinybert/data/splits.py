"""Splits a task's rows into train, validation and test: without duplicates, stratified by label or by group."""

from __future__ import annotations

import difflib
import random
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sklearn.model_selection import train_test_split

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import first_ten, log
from pipeline.tinybert.core.settings import Source
from pipeline.tinybert.core.settings import Task as TaskSettings
from pipeline.tinybert.data import sources
from pipeline.tinybert.data.records import Records, check_source, column_names, parse_records
from pipeline.tinybert.data.rows import Row

if TYPE_CHECKING:
    from pipeline.tinybert.tasks import Task

MOST_CERTAIN_LABELS = 20  # more labels, for nearly as many rows, may be another column
SHOWN_LINES = 3  # of each rare class
NEAR = 0.8  # similarity of two labels, one of which may be a misspelling
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
    locations: Mapping[Any, str | None] = source.splits or {"train": None}
    if "train" not in locations:
        raise UserError(f"{key}.splits: no 'train' (it has: {', '.join(locations)})")
    errors = []

    def read_split(name: str, location: str | None, labelled: bool = True) -> list[Row]:
        try:
            return _read_split(task, source, location, name, key, labelled)
        except UserError as error:
            errors.append(str(error))
            return []

    rows = SourceRows(
        {name: read_split(name, locations[name]) for name in SPLITS if name in locations},
        {name: read_split(name, location) for name, location in source.more_tests.items()},
        {name: read_split(name, location, labelled=False) for name, location in source.submissions.items()},
    )
    if errors:
        raise UserError("; ".join(dict.fromkeys(errors)))  # an error of the whole source occurs once per split
    return rows


def _read_split(
    task: Task, source: Source, location: str | None, split: str, key: str, labelled: bool = True
) -> list[Row]:
    records = sources.records(source, location, needed_columns(task, source, labelled), key)
    rows = parse_records(task, records, source, key, labelled)
    return [{"id": f"{split}-{number}", **row} for number, row in enumerate(rows)]


def needed_columns(task: Task, source: Source, labelled: bool = True) -> list[Any]:
    """The columns that a source must have: those that the task kind reads, and the group column."""
    columns = list(column_names(task, source, labelled).values())
    flat = [name for column in columns for name in (column if isinstance(column, list) else [column])]
    return [*flat, *([source.group] if labelled and source.group is not None else [])]


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
    groups = {name: {_group(task, row) for row in rows} - {None} for name, rows in parts.items()}
    for name, of_split in groups.items():
        shared = of_split & groups["train"]
        if shared and name != "train":
            log(f"{name}: {len(shared)} of its {len(of_split)} groups are also in train: scores on it may be too high")


def _group(task: Task, row: Row) -> str | None:
    return row.get("group", task.group(row))


def split_off_missing(task: Task, parts: Parts, test: float, validation: float, seed: int, key: str) -> Parts:
    """Split off from train the parts that the source lacks.

    ``test`` and ``validation`` are shares of all rows of train. Rows are split by group if they have one, or else
    stratified by label.
    """
    rows = parts["train"]
    if not rows:
        raise UserError(f"{key}: no row is left for train: each of its texts is also in validation or test")
    shares = {name: share for name, share in (("test", test), ("validation", validation)) if name not in parts}
    if sum(shares.values()) >= 1:
        raise UserError(f"prepare.test + prepare.validation = {sum(shares.values())}: nothing is left for train")
    split = _split_stratified if _group(task, rows[0]) is None else _split_by_group
    split_off: Parts = {}
    total = len(rows)
    for name, share in shares.items():
        rows, split_off[name] = split(task, rows, round(share * total), seed, name, key)
        log(f"{name}: {len(split_off[name])} rows split off train")
    all_parts = {**parts, **split_off, "train": rows}
    return {name: sorted(all_parts[name], key=_number) for name in SPLITS}


def _split_stratified(
    task: Task, rows: list[Row], size: int, seed: int, name: str, key: str
) -> tuple[list[Row], list[Row]]:
    """Split rows into (rest, split off), stratified by ``Task.stratum``.

    Raises UserError if there are too few rows to have every class on both sides.
    """
    strata = [task.stratum(row) for row in rows]
    counts = Counter(strata)
    smallest, count = min(sorted(counts.items(), key=str), key=lambda item: item[1])
    if count * min(size, len(rows) - size) < len(rows):  # otherwise a side could miss the class
        raise UserError(
            f"{key}: {len(rows)} rows"
            + (f", {count} of them '{smallest}'" if smallest is not None else "")
            + f": too few to split off {size} rows for {name} with every class on both sides; bring more rows or change"
            f" prepare.{name}"
            + ("" if smallest is None else _classes(rows, strata, len(rows) / max(1, min(size, len(rows) - size))))
        )
    stratify = strata if len(counts) > 1 else None
    rest, split_off = train_test_split(rows, test_size=size, random_state=seed, stratify=stratify)
    return rest, split_off


def _classes(rows: list[Row], labels: list, enough: float) -> str:
    """The classes and how often they occur; the first lines of those with fewer than ``enough`` rows, and what is meant
    if one may be misspelt.
    """
    counts = Counter(labels)
    if question := _right_column(len(counts), len(rows)):
        return question
    frequent = [label for label, count in counts.items() if count >= enough]
    rare: dict[str, list[str]] = {label: [] for label, count in counts.most_common() if count < enough}
    for row, label in zip(rows, labels, strict=True):
        if label in rare:
            rare[label].append(row["where"])
    return (
        f". The classes: {first_ten([f'{label} {count}' for label, count in counts.most_common()])}. The rare ones: "
        + first_ten(
            [f"'{label}' ({'; '.join(where[:SHOWN_LINES])}{_like(label, frequent)})" for label, where in rare.items()]
        )
    )


def _right_column(labels: int, rows: int) -> str:
    """A question, if nearly each row has a label of its own."""
    if labels <= max(MOST_CERTAIN_LABELS, rows / 2):
        return ""
    return f". There are {labels} different labels in {rows} rows: is `label` the right column?"


def _like(label: str, known: Iterable[str]) -> str:
    """The label that may be meant, for a message."""
    by_folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(label.casefold(), by_folded, n=1, cutoff=NEAR)
    return f"; like '{by_folded[near[0]]}'?" if near else ""


def _split_by_group(
    task: Task, rows: list[Row], size: int, seed: int, name: str, key: str
) -> tuple[list[Row], list[Row]]:
    """Split rows into (rest, split off). Whole groups are split off in random order, as long as they fit into ``size``.

    Raises UserError if the groups that fit have less than half of ``size`` rows.
    """
    members: dict[str | None, list[int]] = {}
    for number, row in enumerate(rows):
        members.setdefault(_group(task, row), []).append(number)
    groups = list(members.values())
    random.Random(seed).shuffle(groups)
    split_off: set[int] = set()
    for group in groups:
        if len(split_off) + len(group) <= size:
            split_off.update(group)
    if len(split_off) < size / 2 or not split_off:
        raise UserError(
            f"{key}: {len(groups)} groups in {len(rows)} rows, the largest of {max(map(len, groups))}: no choice of"
            f" whole groups has about {size} rows for {name}: bring more groups, change prepare.{name}, or name a file"
            " for it in `splits`"
        )
    numbered = list(enumerate(rows))
    return (
        [row for number, row in numbered if number not in split_off],
        [row for number, row in numbered if number in split_off],
    )


def check_labels(task: Task, parts: Parts, source: Source, key: str) -> None:
    """Raise UserError if a row of another split has a label that no row of train has."""
    train = {label for row in parts["train"] for label in task.labels_in(row)}
    for split, rows in parts.items():
        unknown: dict[str, list[str]] = {}  # label → positions of its rows
        for row in rows:
            for label in sorted(set(task.labels_in(row)) - train):
                unknown.setdefault(label, []).append(row["where"])
        if unknown:
            randomly_split = split in SPLITS and split not in (source.splits or {})
            raise UserError(
                f"{key}: {split} has labels that no row of train has: "
                + first_ten(
                    [f"'{label}' ({first_ten(at)}{_like(label, train)})" for label, at in sorted(unknown.items())]
                )
                + f"; train has {first_ten(sorted(train), ', ')}: "
                + (
                    "bring more rows with these labels, or change prepare.seed, which draws the split"
                    if randomly_split
                    else "correct the labels, add rows with them to train, or remove these rows"
                )
                + _right_column(len(train), len(parts["train"]))
            )


def check_variety(task: Task, parts: Parts, key: str) -> None:
    """Raise UserError if all rows of validation have the same label, and log it for a test set: any model gets the same
    score, or one close to it, on rows of a single class.
    """
    for split, rows in parts.items():
        # Of words or passages, rows with equal labels still tell models apart.
        labels = {repr(row["label"]) if task.uses_first_position_only else row["id"] for row in rows}
        has_none = any(map(task.labels_in, parts["train"])) and not any(map(task.labels_in, rows))
        if split == "train" or len(rows) < 2 or (len(labels) > 1 and not has_none):
            continue
        found = "no label" if has_none else f"the label {rows[0]['label']!r}"
        problem = f"{key}: all {len(rows)} rows of {split} have {found}, so scores on them say nothing"
        if split == "validation":
            raise UserError(
                f"{problem}, and could choose no model: add rows with other labels, or remove `validation` from"
                " `splits`, so that it is split off train"
            )
        log(problem)


def read_unlabelled(task: Task, settings: TaskSettings, parts: Parts, seed: int, key: str) -> list[Row]:
    """The task's unlabelled rows, without duplicates and without rows that occur in a split."""
    if settings.unlabelled is None:
        return []
    source = settings.unlabelled
    check_source(task, source, key)
    if (settings.source.pair is None) != (source.pair is None):
        raise UserError(f"{key}.pair: either both or none of the task's labelled and unlabelled rows must be pairs")
    columns = column_names(task, source, labelled=False)
    if "words" in columns and source.text is not None:
        columns = {"text": source.text}
    if set(columns) == {"text"}:
        texts = sources.texts(source, seed, key)
        records: Records = ((f"text {number}", {columns["text"]: text}) for number, text in enumerate(texts, 1))
    else:
        if source.sentences:
            raise UserError(f"{key}.sentences: only single texts can be split into sentences: remove the setting")
        records = sources.sample(source, list(columns.values()), seed, key)
    known = {task.duplicate_key(row) for rows in parts.values() for row in rows}
    rows = [_without(row, "where") for row in parse_records(task, records, source, key, labelled=False)]
    new = list({task.duplicate_key(row): row for row in rows if task.duplicate_key(row) not in known}.values())
    if len(new) < len(rows):
        dropped = len(rows) - len(new)
        log(f"unlabelled: {dropped} duplicate rows dropped: their text is also in a labelled or another unlabelled row")
    return [{"id": f"unlabelled-{number}", **row} for number, row in enumerate(new)]


def _number(row: Row) -> int:
    """The number of a row in its split of the source: 7 for the id train-7."""
    return int(row["id"].rpartition("-")[2])


def _without(row: Row, *keys: str) -> Row:
    return {name: value for name, value in row.items() if name not in keys}


def without_internal_fields(rows: list[Row]) -> list[Row]:
    """Rows without the fields that only `prepare` needs."""
    return [_without(row, "where", "group") for row in rows]
