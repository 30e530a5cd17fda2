"""Entities as character offsets in a text, as annotation tools write them (Doccano, Label Studio, Prodigy, spaCy)."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from pipeline.tinybert.data.cells import BadRecordError, list_in_text, text_of
from pipeline.tinybert.data.part_of_text import find_part, stripped_before
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
    text, cell, repairs = text_of(record, text_column), record[column], []
    if cell is None or cell != cell or cell == "":  # Label Studio leaves the field of a text without entities out
        cell, repairs = [], [f"column '{column}' is empty, which counts as no entity"]
    spans = spans_with_quotes(text)
    tags, before = [OUTSIDE] * len(spans), Entity(0, 0, "", None)
    for found in sorted(set(entities_in(cell, column)), key=lambda entity: entity[:3]):
        entity = _placed(found, record[text_column], text)
        shown = f"the entity '{text[entity.start : entity.end]}'"
        if entity.start < before.end:
            raise BadRecordError(
                f"{shown} ({entity.type}) overlaps with '{text[before.start : before.end]}' ({before.type}): a"
                " character can be in one entity only",
                "two entities overlap",
            )
        before = entity
        words = [number for number, (low, high) in enumerate(spans) if low < entity.end and high > entity.start]
        free = [number for number in words if tags[number] == OUTSIDE]
        for number in free:
            tags[number] = f"{'B' if number == free[0] else 'I'}-{names.get(entity.type, entity.type)}"
        if found.text is not None and record[text_column][found.start : found.end].strip() != found.text.strip():
            lead = stripped_before(record[text_column])
            place = f"from {entity.start + lead} to {entity.end + lead}"
            repairs.append(f"{shown} is {place}, not from {found.start} to {found.end}")
        if difference := _difference(entity, text, [spans[number] for number in words], len(free) < len(words)):
            repairs.append(f"{shown} {difference}")
    row = {"words": [text[start:end] for start, end in spans], "tags": tags}
    return {**row, **({"repaired": "; ".join(repairs)} if repairs else {})}


def entities_in(cell: Any, column: Any) -> list[Entity]:
    """The entities of a cell: a list of them, the list in JSON, or spaCy's object with the list ``entities``."""
    if isinstance(cell, str) and (listed := list_in_text(cell)) is not None:
        cell = listed
    if isinstance(cell, dict):
        cell = cell.get("entities")
    if not isinstance(cell, list | tuple | np.ndarray):
        raise BadRecordError(
            f"column '{column}': expected a list of entities, found {str(cell)[:50]!r}", f"column '{column}': no list"
        )
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
    start, end = _whole_number(start), _whole_number(end)
    if start is None or end is None or not isinstance(kind, str | Integral) or isinstance(kind, bool):
        raise BadRecordError(f"{where} is {value!r}: {EXPECTED}", f"an entity in another form: {EXPECTED}")
    name = str(kind).strip()
    if not name or name != name.strip("-"):  # seqeval drops hyphens at the ends
        raise BadRecordError(f"{where} has the type {kind!r}: expected a name that begins and ends without a hyphen")
    return Entity(start, end, name, text if isinstance(text, str) and text.strip() else None)


def _whole_number(value: Any) -> int | None:
    """The whole number that a cell holds, also as 10.0 or as text; else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else None


def _placed(entity: Entity, original: str, text: str) -> Entity:
    """The place of the entity in ``text``, the ``original`` without blanks around it. Blanks of the entity are cut."""
    before = stripped_before(original)
    if entity.text is not None:
        start = entity.start + stripped_before(entity.text) - before
        start = find_part(entity.text.strip(), start, text, "entity", "text")
        return entity._replace(start=start, end=start + len(entity.text.strip()))
    where = f"the entity from {entity.start} to {entity.end} ({entity.type})"
    if not 0 <= entity.start < entity.end <= len(original):
        raise BadRecordError(
            f"{where} is not in the text: expected 0 ≤ start < end ≤ {len(original)}", "an entity is not in the text"
        )
    inside = original[entity.start : entity.end]
    if not inside.strip():
        raise BadRecordError(f"{where} holds only blanks", "an entity holds only blanks")
    start = entity.start + stripped_before(inside) - before
    return entity._replace(start=start, end=start + len(inside.strip()))


def _difference(entity: Entity, text: str, words: list[Span], is_shared: bool) -> str | None:
    """How the words that are tagged differ from the entity; None if they do not."""
    if is_shared:
        return "shares a word with the entity before it, which keeps the word"
    whole = text[words[0][0] : words[-1][1]]
    is_whole = (entity.start, entity.end) == (words[0][0], words[-1][1])
    return None if is_whole else f"becomes '{whole}', as whole words count"
