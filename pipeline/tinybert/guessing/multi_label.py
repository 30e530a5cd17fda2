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
# The column(s) of labels, the separator between labels in a cell (or None), and how often each label occurs.
Labels = tuple[Any, str | None, Counter]


def multi_label(columns: Columns) -> Guess:
    label, separator, counts = _labels(columns)
    rivals = [name for name in columns.class_columns() if str(name).lower() in LABEL and name not in flat([label])]
    is_clear = columns.kind_is_given or "label" in columns.chosen or str(label).lower() in ("label", "labels")
    if rivals and not is_clear:
        raise UserError(
            f"--kind: column {quoted(rivals[0])} holds classes, and several labels are in"
            f" {', '.join(map(quoted, flat([label])))}: give --kind text_classification or --kind multi_label"
        )
    label_columns = label if isinstance(label, list) else [label]
    source, reasons, texts = texts_of_rows(columns, label_columns)
    if isinstance(label, list):
        form = f"{len(label_columns)} columns of 0 and 1: {', '.join(label_columns)}"
    else:
        form = f"column '{label}'"
    between = f", '{separator}' between them" if separator else ""
    reasons.append(Reason("label", f"{form} ({len(counts)} labels{between}: {listed(counts)})"))
    source |= {"label": label, **({"separator": separator} if separator else {})}
    return Guess(source, reasons, texts, "micro_f1")


def _labels(columns: Columns) -> Labels:
    """The labels in the first form that fits. Raises UserError if none does."""
    if found := _binary_columns(columns) or _list_column(columns) or _separated_column(columns):
        return found
    if chosen := columns.chosen.get("label"):
        which = ", ".join(SEPARATORS)
        raise UnfitError(
            f"label: column '{chosen}' has no lists, and not several short labels in a cell with one of {which} between"
            " them: give --separator, or --label COLUMN COLUMN for columns of 0 and 1"
        )
    if columns.kind_is_given:
        for name in named(columns.counts, *LABELS):
            columns.refuse_unreadable_lists("label", name)
    raise columns.cannot_guess(
        "label", "no column holds several labels (a list, or a text with separators)", UnfitError
    )


def _binary_columns(columns: Columns) -> Labels | None:
    """Columns of 0 and 1 with one label each: those that the user chose or, without a choice, those that look so."""
    chosen = columns.chosen.get("label")
    if chosen and not isinstance(chosen, list):
        return None
    label_columns = chosen or _columns_of_0_and_1(columns)
    if not label_columns:
        return None
    counts = {name: _count_on(columns.counts.get(name, Counter())) for name in label_columns}
    return label_columns, None, Counter(counts)


def _list_column(columns: Columns) -> Labels | None:
    """A column of lists."""
    lists = _lists_of_labels(columns, columns.chosen.get("label"))
    if not lists:
        return None
    label = columns.pick_column("label", lists, LABELS, "lists")
    return label, None, Counter(str(value) for cell in columns.cells(label) if is_list(cell) for value in cell)


def _separated_column(columns: Columns) -> Labels | None:
    """A column with a separator between the labels of a cell."""
    chosen, given = columns.chosen.get("label"), columns.chosen.get("separator")
    for name in [chosen] if chosen else named(columns.counts, *LABELS):
        cells = columns.counts.get(name, Counter())
        if chosen and given and cells:
            return name, given, _labels_between(cells, given)
        for separator in [given] if given else SEPARATORS:
            if _is_separator(separator, cells, columns.kind_is_given or bool(given)):
                return name, separator, _labels_between(cells, separator)
    return None


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
    has_zeros = any(len(columns.counts[name]) > 1 for name in binary)
    class_columns = [name for name in columns.class_columns() if name not in binary]
    if columns.kind_is_given:
        rivals = []
    elif has_zeros:
        rivals = named(class_columns, *LABEL)
    else:
        rivals = class_columns
    if rivals or _lists_of_labels(columns, None):
        return []
    unexplained = [name for name in class_columns if str(name).lower() not in NO_LABEL]
    if unexplained and not columns.kind_is_given:
        raise UserError(
            f"--kind: column {quoted(unexplained[0])} holds classes, and"
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
