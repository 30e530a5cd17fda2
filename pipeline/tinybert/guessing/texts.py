"""Guesses of classes and numbers of texts."""

from collections import Counter
from collections.abc import Iterable
from itertools import combinations
from typing import Any

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import SHOWN, first_ten
from pipeline.tinybert.data.cells import flat
from pipeline.tinybert.guessing.columns import (
    LABEL,
    NO_LABEL,
    WITH_COMMA,
    Columns,
    Guess,
    Reason,
    UnfitError,
    are_partners,
    has_fractions,
    is_number,
    listed,
    named,
    quoted,
)

# A column of such a name is the text, even if others hold texts, too.
TEXT = ("text", "sentence", "tweet", "message", "utterance", "comment")
SCORE = ("score", "similarity", "rating", "label", "stars", "target", "value", "gold")
MOST_GRADES = 20  # whole numbers with more values than this are scores, not classes
RARE = 0.2  # share of the rarest class under which accuracy hides it


def text_classification(columns: Columns) -> Guess:
    label = columns.chosen.get("label") or _column_of_classes(columns)
    if isinstance(label, list):
        raise columns.cannot_guess("label", "several columns, of which only multi_label reads labels")
    counts = columns.counts.get(label, Counter())
    columns.refuse_unreadable_lists("label", label)
    if number := columns.localised_number(label):
        raise UserError(f"label: column '{label}' has {WITH_COMMA.format(number)}")
    if len(counts) < 2 or not (columns.kind_is_given or label in columns.class_columns()):
        raise columns.cannot_guess("label", f"column '{label}' does not hold a few different values")
    source, reasons, texts = texts_of_rows(columns, [label])
    others = [name for name in columns.class_columns() if name not in (label, columns.group, *flat(source.values()))]
    why = f"{_why(columns, label, others)}{len(counts)} values: {listed(counts)}"
    reasons.append(Reason("label", f"column '{label}' ({why})"))
    if others:
        which = first_ten(list(map(quoted, others)), ", ")
        text = f"{which}: classes, too: --label names the column that is the label"
        reasons.append(Reason("not read", text, tuple(others[:SHOWN])))
    if columns.numbers(label):
        text = "the classes have numbers as names; `source.labels` in params.yaml can give others"
        reasons.append(Reason("labels", text))
        if len(counts) > 2:
            reasons.append(Reason("kind", "if the numbers are a scale, --kind regression learns their order"))
    rarest, count = counts.most_common()[-1]
    share = count / counts.total()
    metric = "macro_f1" if share < min(RARE, 1 / len(counts) / 2) else "accuracy"
    reasons.append(Reason("metric", f"{metric} (the rarest class, {rarest}, has {100 * share:.0f} % of the rows)"))
    return Guess({**source, "label": label}, reasons, texts, metric)


def _why(columns: Columns, label: Any, others: list) -> str:
    """The reason why a column of labels was chosen, with a comma; empty if there was no choice."""
    return "as given, " if "label" in columns.chosen else "by its name, " if others else ""


def _column_of_classes(columns: Columns) -> Any:
    classes = columns.class_columns()
    by_name = [name for name in columns.counts if str(name).lower() in LABEL]
    if not columns.kind_is_given and by_name and not set(by_name) & set(classes) and not columns.numbers(by_name[0]):
        count = len(columns.counts[by_name[0]])
        why = f"column '{by_name[0]}' has {count} different values in {len(columns.records)} rows, too many for classes"
        if count < 2:
            why = f"column '{by_name[0]}' has the same value in all rows"
        raise columns.cannot_guess("label", why)
    label = columns.pick_column("label", classes, LABEL, "a few different values")
    if not columns.kind_is_given and str(label).lower() in NO_LABEL:
        why = f"only column '{label}' holds a few different values, and its name is not that of a label"
        raise columns.cannot_guess("label", why)
    return label


def regression(columns: Columns) -> Guess:
    scores = [name for name in columns.names if len(columns.numbers_of_mostly_numeric(name)) > 1]
    if not columns.kind_is_given:  # stars from 1 to 5 may be classes
        scores = [name for name in scores if _is_fine_grained(columns.numbers_of_mostly_numeric(name))]
    ids = [name for name in scores if len(columns.numbers_of_mostly_numeric(name)) == len(columns.records)]
    candidates = [name for name in scores if name not in ids or has_fractions(columns.numbers_of_mostly_numeric(name))]
    if not columns.kind_is_given:  # a number of any other name may be anything
        candidates = named(candidates, *SCORE)
    label = columns.chosen.get("label") or columns.pick_column("label", candidates, SCORE, "different numbers")
    if isinstance(label, list):
        raise columns.cannot_guess("label", "several columns, of which only multi_label reads labels")
    values = columns.numbers_of_mostly_numeric(label) if columns.kind_is_given or label in scores else []
    if len(values) < 2:
        example = next((value for value in columns.counts.get(label, ()) if not is_number(value)), None)
        found = f": '{example}' is no number" if example else ""
        raise columns.cannot_guess("label", f"column '{label}' does not hold different numbers{found}")
    source, reasons, texts = texts_of_rows(columns, [label])
    reasons.append(Reason("label", f"column '{label}' (numbers from {min(values):g} to {max(values):g})"))
    return Guess({**source, "label": label}, reasons, texts, "pearson_spearman")


def _is_fine_grained(numbers: list[float]) -> bool:
    return len(numbers) > MOST_GRADES or has_fractions(numbers)


def texts_of_rows(columns: Columns, without: Iterable[Any]) -> tuple[dict[str, Any], list[Reason], list[str]]:
    """Source keys `text` and, for a pair, `pair`; the reasons; the text(s) of each row."""
    candidates = columns.text_columns(without)
    chosen: dict[str, Any] = {key: columns.chosen[key] for key in ("text", "pair") if key in columns.chosen}
    in_order = [name for name in columns.names if name in candidates]
    pairs = [pair for pair in combinations(in_order, 2) if are_partners(*pair)]
    if "text" in chosen:
        source, reason = chosen, "as given"
    elif len(pairs) == 1 and not chosen:
        source, reason = {"text": pairs[0][0], "pair": pairs[0][1]}, "a pair, by their names"
    else:
        candidates = [name for name in candidates if name not in flat(chosen.values())]
        if not candidates:
            raise columns.cannot_guess("text", "no column holds texts of several words", UnfitError)
        by_name = [name for name in candidates if str(name).lower() in TEXT]
        is_long = by_name and 3 * columns.median_length(by_name[0]) > columns.median_length(candidates[0])
        if len(by_name) == 1 and len(candidates) > 1 and (by_name == ["text"] or is_long):
            return _read_texts(columns, {"text": by_name[0], **chosen}, "by its name", without)
        longest, *others = candidates
        if rivals := [name for name in others if 3 * columns.median_length(name) > columns.median_length(longest)]:
            which = ", ".join(map(quoted, [longest, *rivals]))
            raise columns.cannot_guess(
                "text",
                f"columns {which} hold texts (--text A B joins them, --text A --pair B reads pairs, --text A one only)",
            )
        source, reason = {"text": longest, **chosen}, "the longest texts" if others else "the only texts"
    return _read_texts(columns, source, reason, without)


def _read_texts(
    columns: Columns, source: dict[str, Any], reason: str, without: Iterable[Any]
) -> tuple[dict[str, Any], list[Reason], list[str]]:
    """What `texts_of_rows` returns for these keys of the source, which were chosen for a reason."""
    names = flat(source.values())
    median = " and ".join(f"{columns.median_length(name):.0f}" for name in names)
    which = " and ".join(map(quoted, names))
    reasons = [Reason(", ".join(source), f"{which} ({reason}; median length {median} words)")]
    takes_more = "pair" not in columns.chosen and not isinstance(source["text"], list)
    if takes_more:
        for name in columns.text_columns([*without, *names, columns.group]):
            text = (
                f"'{name}' (median length {columns.median_length(name):.0f} words): --pair '{name}' reads it as a"
                f" second text, --text '{name}' '{names[0]}' joins both"
            )
            reasons.append(Reason("not read", text, (name,)))
    return source, reasons, [" ".join(str(row[name]) for name in names) for row in columns.records]
