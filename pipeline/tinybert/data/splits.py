"""From a task's source to train, validation and test: no row twice, none on two sides, labels in proportion."""

import random
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from sklearn.model_selection import train_test_split

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import first_ten, log
from pipeline.tinybert.core.settings import Source
from pipeline.tinybert.core.settings import Task as TaskSettings
from pipeline.tinybert.data import sources
from pipeline.tinybert.data.records import check_source, checked, column_names
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.tasks.task import Task

SPLITS = ("train", "validation", "test")
Parts = dict[str, list[Row]]


@dataclass(frozen=True)
class Read:
    """What a source holds: its splits (only ``train`` where it names none), the further ones that are scored beside
    test, and those without labels of which predictions are wanted, every row of them and in order.
    """

    parts: Parts
    more_tests: Parts
    submissions: Parts


def read(task: Task, source: Source, key: str) -> Read:
    """All splits of a source as checked rows with an ``id`` and ``where`` they stand; UserError says what is wrong with
    each split.
    """
    check_source(task, source, key)
    named = source.splits or {"train": None}
    if "train" not in named:
        raise UserError(f"{key}.splits: no 'train' (it has: {', '.join(named)})")
    bad = []

    def rows(name: str, place: str | None, labelled: bool = True) -> list[Row]:
        try:
            return _rows(task, source, place, name, key, labelled)
        except UserError as error:
            bad.append(str(error))
            return []

    found = Read(
        {name: rows(name, named[name]) for name in SPLITS if name in named},
        {name: rows(name, place) for name, place in source.more_tests.items()},
        {name: rows(name, place, labelled=False) for name, place in source.submissions.items()},
    )
    if bad:
        raise UserError("; ".join(dict.fromkeys(bad)))  # that of the whole source would come again with each split
    return found


def _rows(task: Task, source: Source, place: str | None, split: str, key: str, labelled: bool = True) -> list[Row]:
    records = sources.records(source, place, needed_columns(task, source, labelled), key)
    rows = checked(task, records, source, key, labelled)
    return [{"id": f"{split}-{number}", **row} for number, row in enumerate(rows)]


def needed_columns(task: Task, source: Source, labelled: bool = True) -> list[Any]:
    """The columns that a source must have: those of the kind, and the group's."""
    columns = list(column_names(task, source, labelled).values())
    flat = [name for column in columns for name in (column if isinstance(column, list) else [column])]
    return [*flat, *([source.group] if labelled and source.group is not None else [])]


def without_duplicates(task: Task, parts: Parts, more_tests: Parts) -> Parts:
    """Train and validation without the rows that stand twice, or in a later split; what is given as test stays whole,
    that its scores compare with others'.
    """
    taken: dict[Hashable, tuple[str, Row]] = {}
    for name, rows in reversed([("test", parts.get("test", [])), *more_tests.items()]):
        taken |= {task.identity(row): (name, row) for row in rows}
    kept = {}
    for split in (name for name in ("validation", "train") if name in parts):
        kept[split], dropped = [], {}
        for row in parts[split]:
            identity = task.identity(row)
            if identity in taken:
                owner, same = taken[identity]
                dropped.setdefault(owner, []).append((row, same))
            else:
                taken[identity] = split, row
                kept[split].append(row)
        for owner, pairs in dropped.items():
            _say_dropped(task, split, owner, pairs)
    return {split: kept.get(split, parts[split]) for split in SPLITS if split in parts}


def _say_dropped(task: Task, split: str, owner: str, pairs: list[tuple[Row, Row]]) -> None:
    """``pairs``: a row that is dropped, and the one that is kept."""
    other = [row["where"] for row, same in pairs if any(row[name] != same[name] for name in task.targets)]
    log(
        f"{split}: {len(pairs)} rows dropped whose text "
        + ("comes before" if owner == split else f"stands in {owner}")
        + (f", {len(other)} of them with another answer there: {first_ten(other)}" if other else "")
    )


def say_shared_groups(task: Task, parts: Parts) -> None:
    """Of splits that the source gives: groups that stand on two sides, as one film's reviews or one passage."""
    groups = {name: {_group(task, row) for row in rows} - {None} for name, rows in parts.items()}
    for name, found in groups.items():
        shared = found & groups["train"]
        if shared and name != "train":
            log(f"{name}: {len(shared)} of its {len(found)} groups stand in train too: its scores may flatter")


def _group(task: Task, row: Row) -> str | None:
    return row.get("group", task.group(row))


def complete(task: Task, parts: Parts, test: float, validation: float, seed: int, key: str) -> Parts:
    """Split off what the source lacks, as shares of all rows that it has for training: by group, where rows have one,
    else labels in proportion.
    """
    rows = parts["train"]
    if not rows:
        raise UserError(f"{key}: no row is left for train: each of its texts also stands in validation or test")
    shares = {name: share for name, share in (("test", test), ("validation", validation)) if name not in parts}
    if sum(shares.values()) >= 1:
        raise UserError(f"prepare.test + prepare.validation = {sum(shares.values())}: nothing is left for train")
    groups = [_group(task, row) for row in rows]
    split = _by_group if groups[0] is not None else _in_proportion
    made, total = {}, len(rows)
    for name, share in shares.items():
        rows, made[name] = split(task, rows, round(share * total), seed, name, key)
        log(f"{name}: {len(made[name])} rows split off train")
    all_parts = {**parts, **made, "train": rows}
    return {name: sorted(all_parts[name], key=_number) for name in SPLITS}


def _in_proportion(task: Task, rows: list[Row], size: int, seed: int, name: str, key: str):
    strata = [task.stratum(row) for row in rows]
    counts = Counter(strata)
    smallest, count = min(sorted(counts.items(), key=str), key=lambda item: item[1])
    if count * min(size, len(rows) - size) < len(rows):  # else a side may lack the class
        raise UserError(
            f"{key}: {len(rows)} rows"
            + (f", {count} of them '{smallest}'" if smallest is not None else "")
            + f": too few to split off {size} rows for {name} with every class on both sides; bring more rows or change"
            f" prepare.{name}"
        )
    return train_test_split(rows, test_size=size, random_state=seed, stratify=strata if len(counts) > 1 else None)


def _by_group(task: Task, rows: list[Row], size: int, seed: int, name: str, key: str):
    """Whole groups, drawn by the seed, as long as they fit into ``size`` rows."""
    members: dict[str, list[int]] = {}
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
            f"{key}: {len(groups)} groups in {len(rows)} rows, the largest of {max(map(len, groups))}: they make up no"
            f" {size} rows for {name}; bring more groups, change prepare.{name}, or name a file of its own in `splits`"
        )
    sides = ([row for number, row in enumerate(rows) if (number in split_off) is wanted] for wanted in (False, True))
    return tuple(sides)


def check_labels(task: Task, parts: Parts, source: Source, key: str) -> None:
    """Every label of validation and test is one of train's."""
    train = {label for row in parts["train"] for label in task.labels_in(row)}
    for split, rows in parts.items():
        unknown: dict[str, list[str]] = {}
        for row in rows:
            for label in sorted(set(task.labels_in(row)) - train):
                unknown.setdefault(label, []).append(row["where"])
        if unknown:
            drawn = split in SPLITS and split not in (source.splits or {})
            drawing = "bring more rows with them, or change prepare.seed, which draws the split"
            raise UserError(
                f"{key}: {split} has labels that no row of train has: "
                + ", ".join(f"'{label}' ({first_ten(places)})" for label, places in sorted(unknown.items()))
                + f"; train has {', '.join(sorted(train))}: "
                + (drawing if drawn else "correct them, bring other rows with them into train, or take them out")
            )


def unlabelled(task: Task, settings: TaskSettings, parts: Parts, seed: int, key: str) -> list[Row]:
    """Rows of the task's unlabelled text that stand in no split."""
    if settings.unlabelled is None:
        return []
    source = settings.unlabelled
    check_source(task, source, key)
    if (settings.source.pair is None) != (source.pair is None):
        raise UserError(f"{key}.pair: the task's rows and its unlabelled ones must both be pairs, or neither")
    columns = column_names(task, source, labelled=False)
    if "words" in columns and source.text is not None:
        columns = {"text": source.text}
    if set(columns) == {"text"}:
        texts = sources.texts(source, seed, key)
        records = ((f"text {number}", {columns["text"]: text}) for number, text in enumerate(texts, 1))
    else:
        if source.sentences:
            raise UserError(f"{key}.sentences: only single texts are cut into sentences: leave it out")
        records = sources.sample(source, list(columns.values()), seed, key)
    known = {task.identity(row) for rows in parts.values() for row in rows}
    rows = [_without(row, "where") for row in checked(task, records, source, key, labelled=False)]
    fresh = list({task.identity(row): row for row in rows if task.identity(row) not in known}.values())
    if len(fresh) < len(rows):
        log(f"unlabelled: {len(rows) - len(fresh)} texts dropped that also stand in train, validation or test")
    return [{"id": f"unlabelled-{number}", **row} for number, row in enumerate(fresh)]


def _number(row: Row) -> int:
    return int(row["id"].rpartition("-")[2])


def _without(row: Row, *keys: str) -> Row:
    return {name: value for name, value in row.items() if name not in keys}


def as_written(rows: list[Row]) -> list[Row]:
    """Rows without what only the reading of them needs."""
    return [_without(row, "where", "group") for row in rows]
