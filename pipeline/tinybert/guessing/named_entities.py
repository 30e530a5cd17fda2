"""A guess of entities: tagged words, or the places of the entities in a text."""

import re
from collections import Counter
from typing import Any

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import SHOWN, first_ten
from pipeline.tinybert.data.cells import BadRecordError
from pipeline.tinybert.guessing.columns import (
    MIN_SHARE_OF_CELLS,
    Columns,
    Guess,
    Reason,
    is_empty,
    is_list,
    listed,
    nearly_all,
    quoted,
)
from pipeline.tinybert.guessing.multi_label import LABELS
from pipeline.tinybert.tasks.entity_offsets import OUTSIDE, Entity, entities_in
from pipeline.tinybert.tasks.named_entities import TAG, to_iob2

CHUNKS = {"NP", "VP", "PP", "ADVP", "ADJP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"}  # phrases, as in CoNLL-2000
WORDS_SHOWN = 5
MOST_TYPES = 50  # of entities
BARE_TYPE = re.compile(r"(?![BIESLU][_.])[^\W\d_][\w.]*")
WORD_NUMBER = re.compile(r"\d+([-.]\d+)?")  # 5, 5-6 or 5.1, as in CoNLL-U


def named_entities(columns: Columns) -> Guess:
    if {"data", "annotations"} <= set(columns.names) and all(isinstance(cell, dict) for cell in columns.cells("data")):
        raise UserError("--file: this is Label Studio's full export: export as JSON-MIN, with text and label")
    given = {"words", "tags"} & columns.chosen.keys()
    offsets = [] if given else [name for name in columns.names if _has_entities(columns, name)]
    if "entities" in columns.chosen or offsets:
        return _entities_by_offsets(columns, offsets)
    return _tagged_words(columns)


def _entities_by_offsets(columns: Columns, candidates: list) -> Guess:
    entities = columns.chosen.get("entities") or columns.pick_column("entities", candidates, LABELS, "entities")
    found, errors = _entities_of(columns, entities)  # `prepare` names the rows with an error
    if not found:
        why = str(errors[0]) if errors else f"column {quoted(entities)} holds no entity"
        raise columns.cannot_guess("entities", why)
    texts = columns.text_columns([entities])
    text = columns.chosen.get("text") or columns.pick_column("text", texts, ("text",), "texts")
    if isinstance(text, list):
        raise columns.cannot_guess("text", "the entities count the characters of one column")
    types = Counter(entity.type for entity in found)
    reasons = [
        Reason("text", f"column {quoted(text)} (median length {columns.median_length(text):.0f} words)"),
        Reason("entities", f"column {quoted(entities)} ({len(found)} entities by their characters: {listed(types)})"),
    ]
    if others := [name for name in columns.class_columns() if name not in (text, columns.group, "answer")]:
        which = first_ten(list(map(quoted, others)), ", ")
        reasons.append(Reason("not read", f"{which}: --kind reads classes instead", tuple(others[:SHOWN])))
    return Guess({"text": text, "entities": entities}, reasons, [str(row[text]) for row in columns.records], "f1")


def _has_entities(columns: Columns, column: Any) -> bool:
    """Whether most cells are lists of entities with their offsets, and not all lists are empty. Unless the kind is
    given, three numbers are no entity.
    """
    found, errors = _entities_of(columns, column)
    count = sum(not (is_list(cell) and len(cell) == 0) for cell in columns.cells(column))
    fits = count - len(errors) >= MIN_SHARE_OF_CELLS * count
    return bool(found) and fits and (columns.kind_is_given or not any(entity.type.isdecimal() for entity in found))


def _entities_of(columns: Columns, column: Any) -> tuple[list[Entity], list[BadRecordError]]:
    """The entities of a column with their offsets, and the errors of cells without."""
    found, errors = [], []
    for cell in columns.cells(column):
        try:
            found += entities_in(cell, column)
        except BadRecordError as error:
            errors.append(error)
    return found, errors


def _tagged_words(columns: Columns) -> Guess:
    _refuse_one_tag_per_row(columns)
    lists = _lists(columns)
    tag_of_type = _tag_of_bare_type(columns, lists)
    tag_column, word_column = _choose_tag_and_word_columns(columns, lists)
    rows = [
        (_words_in(row[word_column]), [tag_of_type.get(tag, tag) for tag in _words_in(row[tag_column])])
        for row in columns.records
        if not (is_empty(row[word_column]) or is_empty(row[tag_column]))
    ]
    scheme, valid_rows = _best_scheme(rows, columns.chosen.get("scheme"))
    entities = [tag for tags in valid_rows for tag in tags if tag.startswith("B-")]
    all_tags = [tag for _, tags in rows for tag in tags if tag != OUTSIDE]
    types = Counter(tag[2:] for tag in entities or all_tags)
    reasons = [
        Reason("words", f"column {quoted(word_column)} ({' '.join(rows[0][0][:WORDS_SHOWN])} …)"),
        Reason("tags", f"column {quoted(tag_column)} ({len(types)} types: {listed(types)})"),
        Reason("scheme", f"{scheme} ({len(valid_rows)} of {len(rows)} sentences follow it)"),
    ]
    source = {"words": word_column, "tags": tag_column, "scheme": scheme}
    if tag_of_type:
        source["labels"] = {tag: kind for kind, tag in tag_of_type.items()}
        text = "the types stand alone, without B- and I-: words of one type in a row are one entity"
        reasons.append(Reason("labels", text))
    return Guess(source, reasons, [" ".join(words) for words, _ in rows], "f1")


def _refuse_one_tag_per_row(columns: Columns) -> None:
    for name, values in columns.counts.items():
        others = [value for value in values.elements() if value != OUTSIDE]
        if OUTSIDE in values and nearly_all(TAG.fullmatch, others):
            raise UserError(
                f"tags: column '{name}' has one tag in each row: write a .conll file, with a word and its tag on each"
                " line and a blank line after each sentence"
            )


def _tag_of_bare_type(columns: Columns, lists: dict[Any, list[list]]) -> dict[str, str]:
    """Type → tag, for a CoNLL file whose last column has types such as PER in place of B-PER and I-PER; empty for other
    files, and if a column has tags. Raises UserError if the last column of a CoNLL file has neither.
    """
    if not _is_conll(columns) or any(map(_is_tagged, lists.values())):
        return {}
    tags = Counter(str(tag) for row in columns.cells(columns.names[-1]) for tag in row)
    types = sorted(tags.keys() - {OUTSIDE})
    is_outside_most = tags[OUTSIDE] >= tags.total() / 2
    if is_outside_most and 0 < len(types) <= MOST_TYPES and all(map(BARE_TYPE.fullmatch, types)):
        return {OUTSIDE: OUTSIDE, **{kind: f"I-{kind}" for kind in types}}
    odd = next((tag for tag in tags if not TAG.fullmatch(tag)), OUTSIDE)
    raise UserError(
        f"tags: the last column has {'only ' if odd == OUTSIDE else ''}'{odd}': expected O, B-TYPE and I-TYPE,"
        " in the scheme BIOES also E-TYPE and S-TYPE (or L-TYPE and U-TYPE)"
    )


def _choose_tag_and_word_columns(columns: Columns, lists: dict[Any, list[list]]) -> tuple[Any, Any]:
    """The columns that the user chose or, of a CoNLL file, the last with tags of entities and the first with words. Of
    other files, the only ones.
    """
    is_conll = _is_conll(columns)
    tagged = [name for name, cells in lists.items() if _is_tagged(cells)]
    if is_conll and not tagged:  # types without B- and I-
        tagged = [columns.names[-1]]
    of_entities = [name for name in tagged if not _types(lists[name]) <= CHUNKS] or tagged
    tags = columns.chosen.get("tags") or columns.pick_column(
        "tags",
        of_entities[-1:] if is_conll else of_entities,
        ("ner",),
        "lists of tags (O, B-TYPE, I-TYPE; numbers need an entry by hand, with `labels`)",
    )
    others = [name for name, cells in lists.items() if name not in (*tagged, tags) and _is_words(cells)]
    words = columns.chosen.get("words") or columns.pick_column(
        "words", others[:1] if is_conll else others, ("words", "tokens"), "lists of words"
    )
    for key, name in (("words", words), ("tags", tags)):
        if name not in lists:
            raise columns.cannot_guess(key, f"column {quoted(name)} does not hold lists")
    return tags, words


def _best_scheme(rows: list[tuple[list[str], list[str]]], chosen: str | None) -> tuple[str, list[list[str]]]:
    """The scheme that most sentences follow, unless one is chosen, and the tags in IOB2 of those that follow it."""
    schemes = [chosen] if chosen else ["IOB2", "IOB1", "BIOES"]
    converted = {scheme: [_iob2(*row, scheme) for row in rows] for scheme in schemes}
    valid_rows = {scheme: [tags for tags in found if tags is not None] for scheme, found in converted.items()}
    return max(valid_rows.items(), key=lambda item: len(item[1]))


def _is_conll(columns: Columns) -> bool:
    return all(isinstance(name, int) for name in columns.names)


def _lists(columns: Columns) -> dict[Any, list[list]]:
    """Column → its lists of words or tags. A text with blanks between tags is one, too, and, if no other column holds
    words, a text with as many words as there are tags.
    """
    lists = {name: list(filter(is_list, columns.cells(name))) for name in columns.list_columns()}
    texts = {name: [_words_in(cell) for cell in columns.cells(name)] for name in columns.text_columns()}
    lists |= {name: cells for name, cells in texts.items() if _is_tagged(cells)}
    tagged = [name for name, cells in lists.items() if _is_tagged(cells)]
    if tagged and not any(_is_words(lists[name]) for name in lists if name not in tagged):
        for name in columns.text_columns(without=tagged):
            pairs = [(_words_in(row[name]), _words_in(row[tagged[-1]])) for row in columns.records]
            if nearly_all(lambda pair: len(pair[0]) == len(pair[1]), pairs):
                lists[name] = texts[name]
    return lists


def _words_in(cell: Any) -> list[str]:
    """The words or tags of a cell: a list, or a text with blanks between them."""
    if isinstance(cell, str):
        return cell.split()
    return [str(value) for value in cell] if is_list(cell) else []


def _is_tagged(cells: list) -> bool:
    """Whether there are values besides O, and nearly all of these are tags; `prepare` names the rows with others."""
    return nearly_all(TAG.fullmatch, [text for cell in cells for tag in cell if (text := str(tag)) != OUTSIDE])


def _types(cells: list) -> set[str]:
    tags = (str(tag) for cell in cells for tag in cell if tag != OUTSIDE)
    return {tag[2:] for tag in tags if TAG.fullmatch(tag)}


def _is_words(cells: list) -> bool:
    """Whether lists hold words: not numbers of words, and not the same in all of a list, such as a sentence's name."""
    values = [value for cell in cells for value in cell]
    is_same = all(len(set(map(str, cell))) == 1 for cell in cells) and len(values) > len(cells)
    return (
        all(isinstance(value, str) for value in values)
        and not nearly_all(WORD_NUMBER.fullmatch, values)
        and not is_same
    )


def _iob2(words: list[str], tags: list[str], scheme: str) -> list[str] | None:
    """The tags in IOB2; None if they do not follow the scheme."""
    try:
        return to_iob2(words, tags, scheme)
    except (BadRecordError, ValueError):
        return None
