"""A guess of several labels of each text: in columns of 0 and 1, in lists, or with a separator between them."""

from collections import Counter
from typing import Any

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.data.cells import flat
from pipeline.tinybert.guessing.columns import (
    LABEL,
    LISTS,
    MAX_CLASSES,
    NO_LABEL,
    ROWS_OF_A_CLASS,
    Columns,
    Guess,
    Reason,
    UnfitError,
    is_list,
    listed,
    named,
    quoted,
    words,
)
from pipeline.tinybert.guessing.texts import texts_of_rows
from pipeline.tinybert.tasks.entity_offsets import OUTSIDE
from pipeline.tinybert.tasks.multi_label import OFF, ON
from pipeline.tinybert.tasks.named_entities import TAG

LABELS = ("labels", "label", "tags", "tag", "categories", "category", "genres", "genre", "topics", "topic", "emotions",
          "emotion", "classes")  # fmt: skip
SEPARATORS = ("|", ";", ",", "/")
SHARE_WITH_SEPARATOR = 0.05  # of the rows, at least
WORDS_OF_A_LABEL = 4


def multi_label(columns: Columns) -> Guess:
    label, separator, counts = _labels(columns)
    rivals = [name for name in columns.class_columns() if str(name).lower() in LABEL and name not in flat([label])]
    is_clear = columns.kind_is_given or "label" in columns.chosen or str(label).lower() in ("label", "labels")
    if rivals and not is_clear:
        raise UserError(
            f"--kind: column {quoted(rivals[0])} holds classes, and several labels are in"
            f" {', '.join(map(quoted, flat([label])))}: give --kind text_classification or --kind multi_label"
        )
    several = label if isinstance(label, list) else [label]
    source, reasons, texts = texts_of_rows(columns, several)
    form = f"{len(several)} columns of 0 and 1: {', '.join(several)}" if several is label else f"column '{label}'"
    between = f", '{separator}' between them" if separator else ""
    reasons.append(Reason("label", f"{form} ({len(counts)} labels{between}: {listed(counts)})"))
    source |= {"label": label, **({"separator": separator} if separator else {})}
    return Guess(source, reasons, texts, "micro_f1")


def _labels(columns: Columns) -> tuple[Any, str | None, Counter]:
    """The column(s) of labels, the separator between labels in a cell (or None), and how often each label occurs."""
    chosen = columns.chosen.get("label")
    if several := chosen if isinstance(chosen, list) else [] if chosen else _columns_of_0_and_1(columns):
        return several, None, Counter({name: _count_on(columns.counts.get(name, Counter())) for name in several})
    if lists := _lists_of_labels(columns, chosen):
        label = columns.pick_column("label", lists, LABELS, "lists")
        return label, None, Counter(str(value) for cell in columns.cells(label) if is_list(cell) for value in cell)
    given = columns.chosen.get("separator")
    for name in [chosen] if chosen else named(columns.counts, *LABELS):
        cells = columns.counts.get(name, Counter())
        if chosen and given and cells:
            return name, given, _labels_between(cells, given)
        for separator in [given] if given else SEPARATORS:
            if _is_separator(separator, cells, columns.kind_is_given or bool(given)):
                return name, separator, _labels_between(cells, separator)
    if chosen:
        which = ", ".join(SEPARATORS)
        raise UnfitError(
            f"label: column '{chosen}' has no lists, and not several short labels in a cell with one of {which} between"
            " them: give --separator, or --label COLUMN COLUMN for columns of 0 and 1"
        )
    for name in named(columns.counts, *LABELS) if columns.kind_is_given else ():
        columns.refuse_unreadable_lists("label", name)
    raise columns.cannot_guess(
        "label", "no column holds several labels (a list, or a text with separators)", UnfitError
    )


def _columns_of_0_and_1(columns: Columns) -> list[Any]:
    """Columns with one label each; none if there are too few, or another column holds classes. A blank cell is a 0."""
    rows = len(columns.records)
    binary = [
        name
        for name, counts in columns.counts.items()
        if _is_binary(counts) and (len(counts) > 1 or 0 < _count_on(counts) < rows)
    ]
    if len(binary) < (2 if columns.kind_is_given else 3) or {str(name).lower() for name in binary} & {*LABEL}:
        return []
    has_0 = any(len(columns.counts[name]) > 1 for name in binary)
    others = set(columns.class_columns()) - set(binary)
    classes = [] if columns.kind_is_given else named(others, *LABEL) if has_0 else others
    if classes or _lists_of_labels(columns, None):
        return []
    others = {name for name in others if str(name).lower() not in NO_LABEL}
    if others and not columns.kind_is_given:
        raise UserError(
            f"--kind: column {quoted(min(others, key=columns.names.index))} holds classes, and"
            f" {', '.join(map(quoted, binary))} hold 0 and 1: give --kind multi_label, or --label COLUMN"
        )
    return binary


def _is_binary(counts: Counter) -> bool:
    return {value.lower() for value in counts} <= {*ON, *OFF}


def _count_on(counts: Counter) -> int:
    return sum(count for value, count in counts.items() if value.lower() in ON)


def _lists_of_labels(columns: Columns, chosen: Any) -> list[Any]:
    """The columns of lists that may be the labels. Raises UserError for entities with their offsets."""
    lists = columns.list_columns()
    if chosen is not None:
        lists = [name for name in lists if name == chosen]
    elif not columns.kind_is_given:  # the words of a text may be a list too, and lists of one label are classes
        lists = [name for name in named(lists, *LABELS) if not (name in columns.counts and str(name).lower() in LABEL)]
    for name in lists:
        if any(isinstance(value, (*LISTS, dict)) for cell in columns.cells(name) if is_list(cell) for value in cell):
            raise UserError(
                f"label: column '{name}' has lists or objects in its lists: for entities with their offsets, give"
                f" --kind named_entities --entities '{name}'"
            )
        values = {str(value) for cell in columns.cells(name) if is_list(cell) for value in cell}
        if OUTSIDE in values and all(map(TAG.fullmatch, values)):
            raise UserError(
                f"label: column '{name}' has a tag for each word, but no column has the words: expected lists, or texts"
                " with as many words between blanks as there are tags"
            )
    return lists


def _labels_between(cells: Counter, separator: str) -> Counter:
    """How often each label occurs if ``separator`` separates labels in the cells."""
    labels: Counter = Counter()
    for cell, count in cells.items():
        for label in filter(None, map(str.strip, cell.split(separator))):
            labels[label] += count
    return labels


def _is_separator(separator: str, cells: Counter, is_sure: bool) -> bool:
    """Whether ``separator`` separates labels in the cells. Not ``is_sure``: it may belong to the names of classes, such
    as "Sci/Tech", of which there are fewer than of their parts.
    """
    labels = _labels_between(cells, separator)
    several = sum(count for cell, count in cells.items() if separator in cell)
    is_few = len(labels) <= min(MAX_CLASSES, labels.total() / ROWS_OF_A_CLASS)
    is_short = all(words(label) <= WORDS_OF_A_LABEL for label in labels)
    is_in_use = 0 < several >= SHARE_WITH_SEPARATOR * cells.total()
    return is_in_use and is_few and is_short and (is_sure or len(labels) <= len(cells))
