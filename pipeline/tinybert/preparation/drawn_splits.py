"""Draw the splits that a source lacks from its train rows: stratified by label, or by whole groups.

Classes with enough rows keep their proportions. If a class has a single row, train gets it; of two rows, train and test
get one each; of three, each split gets one.
"""

import random
from collections import Counter

from sklearn.model_selection import train_test_split

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import first_ten, log
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.preparation.splits import SPLITS, Parts, group_of, spelling_hint, wrong_column_hint
from pipeline.tinybert.tasks import Task

LEAST_ROWS = 10  # fewer rows cannot be split usefully
HANDFUL = 5  # least rows of a split if a class is rare
MOST_TIMES = 2  # a split may grow to this many times its size to have a row of each class
SHOWN_LINES = 3  # a rare label with at most this many rows is logged with their positions
Drawn = tuple[list[Row], list[Row]]  # the remaining rows, and the rows split off


def missing(parts: Parts) -> list[str]:
    """The splits that a source lacks."""
    return [name for name in ("test", "validation") if name not in parts]


def split_off_missing(task: Task, parts: Parts, test: float, validation: float, seed: int, key: str) -> Parts:
    """Split off from train the parts that the source lacks.

    ``test`` and ``validation`` are shares of all rows of train. Rows are split by group if they have one, or else
    stratified by label. Raises UserError if there are fewer than ten rows, or not a group for each split.
    """
    rows = parts["train"]
    if empty := [split for split, part in parts.items() if not part]:
        raise UserError(
            f"{key}: no row is left for {empty[0]}: each of its texts is also in another split: name a file with others"
        )
    shares = {name: {"test": test, "validation": validation}[name] for name in missing(parts)}
    if sum(shares.values()) >= 1:
        raise UserError(f"prepare.test + prepare.validation = {sum(shares.values())}: nothing is left for train")
    by_group = group_of(task, rows[0]) is not None
    draw_strictly, draw_approximately = (
        (_whole_groups, _nearest_groups) if by_group else (_stratified, _some_of_each_class)
    )
    drawn: Parts = {}
    total = len(rows)
    for position, (name, share) in enumerate(shares.items()):
        splits_left = len(shares) - position  # splits, train included, that the remaining rows must still fill
        size = round(share * total)
        found = draw_strictly(task, rows, size, seed, splits_left)
        if found and name == "validation" and not by_group and _is_without_labels(task, *found):
            found = None  # it could not select a model
        if found is None:
            if total < LEAST_ROWS:
                raise UserError(
                    f"{key}: {total} rows: too few to split off {' and '.join(shares)}: bring {LEAST_ROWS} or more, or"
                    " name a file for each in `splits`"
                )
            size = max(size, min(HANDFUL, len(rows) // 4))
            found = draw_approximately(task, rows, size, seed, splits_left, name, key)
        rows, drawn[name] = found
        log(f"{name}: {len(drawn[name])} rows split off train")
    return _in_order({**parts, **drawn, "train": rows})


def _is_without_labels(task: Task, rest: list[Row], split_off: list[Row]) -> bool:
    return len(split_off) > 1 and any(map(task.labels_in, rest)) and not any(map(task.labels_in, split_off))


def _in_order(parts: Parts) -> Parts:
    return {name: sorted(parts[name], key=_number) for name in SPLITS}


def _number(row: Row) -> int:
    """The number of a row in its split of the source: 7 for the id train-7."""
    return int(row["id"].rpartition("-")[2])


# Split by label. ``splits_left``: the number of splits, with train, that the remaining rows are for.


def _stratified(task: Task, rows: list[Row], size: int, seed: int, splits_left: int) -> Drawn | None:
    """A random split in which the classes of ``Task.stratum`` keep their proportions. None if a side could miss one."""
    strata = [task.stratum(row) for row in rows]
    counts = Counter(strata)
    if min(counts.values()) * min(size, len(rows) - size) < len(rows):
        return None
    stratify = strata if len(counts) > 1 else None
    rest, split_off = train_test_split(rows, test_size=size, random_state=seed, stratify=stratify)
    return rest, split_off


def _some_of_each_class(
    task: Task, rows: list[Row], size: int, seed: int, splits_left: int, name: str, key: str
) -> Drawn:
    """A random split with at least one row of each class that has enough rows to leave one for each other split. Kinds
    without ``Task.stratum`` have two classes: rows with and without labels.
    """
    labels = [task.labels_in(row) for row in rows]
    if question := wrong_column_hint(labels):
        raise UserError(f"{key}: too few rows of each label to split off {name}{question}")
    strata = [task.stratum(row) or str(bool(found)) for row, found in zip(rows, labels, strict=True)]
    wanted = {
        stratum: min(max(round(count * size / len(rows)), 1), count - min(splits_left, count - 1))
        for stratum, count in Counter(strata).most_common(MOST_TIMES * size)
        if count > 1
    }
    if not wanted:
        raise UserError(
            f"{key}: {len(rows)} rows, no two of them with the same label: none can be split off for {name}: is `label`"
            " the right column? Or bring more rows of each label"
        )
    split_off = set()
    for number in random.Random(seed).sample(range(len(rows)), len(rows)):
        if wanted.get(strata[number], 0) > 0:
            wanted[strata[number]] -= 1
            split_off.add(number)
    return _divided(rows, split_off)


def _divided(rows: list[Row], split_off: set[int]) -> Drawn:
    numbered = list(enumerate(rows))
    return (
        [row for number, row in numbered if number not in split_off],
        [row for number, row in numbered if number in split_off],
    )


# Split by group.


def _shuffled_groups(task: Task, rows: list[Row], seed: int) -> list[list[int]]:
    """The numbers of each group's rows, in random order of the groups."""
    members: dict[str | None, list[int]] = {}
    for number, row in enumerate(rows):
        members.setdefault(group_of(task, row), []).append(number)
    groups = list(members.values())
    random.Random(seed).shuffle(groups)
    return groups


def _fitting(groups: list[list[int]], size: int) -> list[list[int]]:
    """Groups that together have at most ``size`` rows: in order, without those that no longer fit."""
    chosen, count = [], 0
    for group in groups:
        if count + len(group) <= size:
            chosen.append(group)
            count += len(group)
    return chosen


def _whole_groups(task: Task, rows: list[Row], size: int, seed: int, splits_left: int) -> Drawn | None:
    """Split off whole groups of together at most ``size`` rows. None if they have less than half of ``size`` rows, or
    leave too few groups for the other splits.
    """
    groups = _shuffled_groups(task, rows, seed)
    chosen = _fitting(groups, size)
    split_off = {number for group in chosen for number in group}
    too_few = len(split_off) < size / 2 or not split_off
    return None if too_few or len(groups) - len(chosen) < splits_left else _divided(rows, split_off)


def _nearest_groups(task: Task, rows: list[Row], size: int, seed: int, splits_left: int, name: str, key: str) -> Drawn:
    """Split off the whole groups that come nearest to ``size`` rows: those that fit, or a single one."""
    groups = _shuffled_groups(task, rows, seed)
    if len(groups) <= splits_left:
        raise UserError(
            f"{key}: {len(groups)} groups in {len(rows)} rows: too few to split off {name}, as groups stay whole: bring"
            " more groups, or name a file for it in `splits`"
        )
    choices = [_fitting(groups, size)[: len(groups) - splits_left], *([group] for group in groups)]
    numbers = [{number for group in chosen for number in group} for chosen in choices if chosen]
    split_off = min(numbers, key=lambda found: abs(len(found) - size))
    log(
        f"{name}: DOUBTFUL: {len(split_off)} of {len(rows)} rows in place of {size}, as groups stay whole and the"
        f" largest of {len(groups)} has {max(map(len, groups))} rows: more and smaller groups would split better"
    )
    return _divided(rows, split_off)


# Rare labels.


def cover_labels(task: Task, parts: Parts, drawn: list[str], key: str) -> Parts:
    """Move rows of the splits ``drawn``, from validation first, to train if it has no row with one of their labels.

    Groups move whole. A split that would become empty gets other rows of train in exchange, whose labels train has
    elsewhere; without such rows it stays. Logs the labels that are too rare to be in each drawn split.
    """
    parts = dict(parts)
    needed = sorted(
        {label for rows in parts.values() for label in labels_of(task, rows)} - labels_of(task, parts["train"])
    )
    if needed and (question := wrong_column_hint([task.labels_in(row) for row in parts["train"]])):
        raise UserError(f"{key}: rows of other splits have labels that no row of train has{question}")
    moved = 0
    for label in needed:
        for name in sorted(drawn, reverse=True):
            of_label = [unit for unit in _units(task, parts[name]) if label in labels_of(task, unit)]
            if label in labels_of(task, parts["train"]) or not of_label:
                continue
            train, rest = [*parts["train"], *of_label[0]], [row for row in parts[name] if row not in of_label[0]]
            if not rest:
                train, rest = _exchange(task, train, len(of_label[0]))
            if rest:
                parts |= {"train": train, name: rest}
                moved += len(of_label[0])
    if moved:
        log(f"train: {moved} rows moved to it from {' and '.join(drawn)}: no other row has one of their labels")
    _log_rare_labels(task, parts, drawn)
    return parts | _in_order(parts)


def _exchange(task: Task, train: list[Row], size: int) -> Drawn:
    """(the rest of train, a row or group to give away): the one nearest to ``size`` rows whose labels train also has
    elsewhere.
    """
    units = _units(task, train)
    count = Counter(label for unit in units for label in labels_of(task, unit))
    spare = [unit for unit in units if all(count[label] > 1 for label in labels_of(task, unit))]
    chosen = min(spare, key=lambda unit: abs(len(unit) - size), default=[])
    return [row for row in train if row not in chosen], chosen


def _units(task: Task, rows: list[Row]) -> list[list[Row]]:
    """Lists of rows that must move together: each row alone, or all rows of a group."""
    units: dict[str, list[Row]] = {}
    for row in rows:
        units.setdefault(group_of(task, row) or row["id"], []).append(row)
    return list(units.values())


def labels_of(task: Task, rows: list[Row]) -> set[str]:
    return {label for row in rows for label in task.labels_in(row)}


def _log_rare_labels(task: Task, parts: Parts, drawn: list[str]) -> None:
    """Log the labels of train that a drawn split lacks: scores on this split say nothing about them."""
    lacking = {name: labels_of(task, parts["train"]) - labels_of(task, parts[name]) for name in drawn}
    at: dict[str, list[str]] = {label: [] for label in sorted(set().union(*lacking.values()))}
    for name in ("train", *drawn):
        for row in parts[name]:
            for label in {*task.labels_in(row)} & at.keys():
                at[label].append(row["where"])
    if at:
        frequent = labels_of(task, parts["train"]) - at.keys()
        shown = [
            _shown(label, where, frequent, [name for name in drawn if label in lacking[name]])
            for label, where in sorted(at.items(), key=lambda item: (len(item[1]), item[0]))
        ]
        log(
            f"DOUBTFUL: {len(at)} labels have too few rows for each split, and scores say little of them:"
            f" {first_ten(shown)}"
        )


def _shown(label: str, where: list[str], frequent: set[str], lacking: list[str]) -> str:
    lines = f" ({'; '.join(where)}{spelling_hint(label, frequent)})" if len(where) <= SHOWN_LINES else ""
    return f"'{label}' in {len(where)}{lines}, none in {' and '.join(lacking)}"
