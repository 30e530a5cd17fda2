"""Entities as character offsets in a text, as annotation tools write them (Doccano, Label Studio, Prodigy, spaCy)."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from pipeline.tinybert.data.part_of_text import find_part, stripped_before
from pipeline.tinybert.data.records import BadRecordError, list_in_text, text_of
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.data.words import Span, spans_with_quotes

OUTSIDE = "O"
# The names that tools give to the fields of an entity.
STARTS, ENDS = ("start", "start_offset"), ("end", "end_offset")
TYPES = ("label", "labels", "type", "tag", "entity_group")
EXPECTED = "expected [start, end, type], or an object with start, end and label"


class Entity(NamedTuple):
    """``end``: the index after the last character. ``text``: None if the file does not repeat it."""

    start: int
    end: int
    type: str
    text: str | None


def parse(record: dict, text_column: Any, column: Any, names: Mapping[str, str]) -> Row:
    """The words of a text and their IOB2 tags. A word that an entity covers in part belongs to it.

    names: type in the file → its name. Offsets count from the first character, also if it is a blank. The row has the
    field ``repaired`` if its tags differ from the file. Raises BadRecordError if an entity is not in the text or
    overlaps with another.
    """
    text, cell = text_of(record, text_column), record[column]
    before, repairs = stripped_before(record[text_column]), []
    if cell is None or cell != cell:  # NaN. Label Studio leaves the field of a text without entities out.
        cell, repairs = [], [f"column '{column}' is empty, which counts as no entity"]
    spans = spans_with_quotes(text)
    tags, end_before = [OUTSIDE] * len(spans), 0
    for found in sorted(set(entities_in(cell, column)), key=lambda entity: entity[:3]):
        entity = _placed(found, text, before)
        shown = f"the entity '{text[entity.start : entity.end]}'"
        if entity.start < end_before:
            raise BadRecordError(f"{shown} overlaps with the one before it", "an entity overlaps with another")
        end_before = entity.end
        words = [number for number, (low, high) in enumerate(spans) if low < entity.end and high > entity.start]
        free = [number for number in words if tags[number] == OUTSIDE]
        for number in free:
            tags[number] = f"{'B' if number == free[0] else 'I'}-{names.get(entity.type, entity.type)}"
        if entity.start != found.start - before:
            repairs.append(f"{shown} begins at {entity.start + before}, not at {found.start}")
        if difference := _difference(entity, text, [spans[number] for number in words], len(free) < len(words)):
            repairs.append(f"{shown} {difference}")
    row = {"words": [text[start:end] for start, end in spans], "tags": tags}
    return {**row, **({"repaired": "; ".join(repairs)} if repairs else {})}


def entities_in(cell: Any, column: Any) -> list[Entity]:
    """The entities of a cell: a list of them, the list in JSON, or spaCy's object with the list ``entities``."""
    if isinstance(cell, str):
        cell = list_in_text(cell)
    if isinstance(cell, dict):
        cell = cell.get("entities")
    if not isinstance(cell, list | tuple | np.ndarray):
        raise BadRecordError(f"column '{column}': expected a list of entities", f"column '{column}': no list")
    return [_entity(value, f"column '{column}': entity {number}") for number, value in enumerate(cell, 1)]


def _entity(value: Any, where: str) -> Entity:
    if isinstance(value, dict):
        start, end, kind = (next((value[key] for key in keys if key in value), None) for keys in (STARTS, ENDS, TYPES))
        text = value.get("text")
    elif isinstance(value, list | tuple | np.ndarray) and len(value) == 3:
        (start, end, kind), text = value, None
    else:
        raise BadRecordError(f"{where} is {value!r}: {EXPECTED}", f"an entity in another form: {EXPECTED}")
    if isinstance(kind, list | tuple | np.ndarray) and len(kind) == 1:
        [kind] = kind
    if not (isinstance(start, Integral) and isinstance(end, Integral) and isinstance(kind, str | int)):
        raise BadRecordError(f"{where} is {value!r}: {EXPECTED}", f"an entity in another form: {EXPECTED}")
    name = str(kind).strip()
    if not name or name != name.strip("-"):  # seqeval drops hyphens at the ends
        raise BadRecordError(f"{where} has the type {kind!r}: expected a name that begins and ends without a hyphen")
    return Entity(int(start), int(end), name, text if isinstance(text, str) and text.strip() else None)


def _placed(entity: Entity, text: str, before: int) -> Entity:
    """The entity with its place in the stripped text, from which ``before`` characters are removed at the start."""
    start, end = entity.start - before, entity.end - before
    if entity.text is not None:
        start = find_part(entity.text.strip(), start + stripped_before(entity.text), text, "entity", "text")
        end = start + len(entity.text.strip())
    inside = text[max(start, 0) : max(end, 0)]
    if not inside.strip():
        raise BadRecordError(
            f"the entity from {entity.start} to {entity.end} ({entity.type}) holds no character of the text, which has"
            f" {len(text) + before}",
            "an entity holds no character of the text",
        )
    start = max(start, 0) + stripped_before(inside)
    return entity._replace(start=start, end=start + len(inside.strip()))


def _difference(entity: Entity, text: str, words: list[Span], is_shared: bool) -> str | None:
    """How the words that are tagged differ from the entity; None if they do not."""
    if is_shared:
        return "shares a word with the one before it, to which the word is left"
    whole = text[words[0][0] : words[-1][1]]
    return f"gets the whole of '{whole}'" if (entity.start, entity.end) != (words[0][0], words[-1][1]) else None
