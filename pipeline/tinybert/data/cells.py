"""Texts and lists in the cells of a record."""

import ast
import unicodedata
from collections.abc import Iterable
from typing import Any

from pipeline.tinybert.core.settings import Column
from pipeline.tinybert.data.rows import parse_json

INVISIBLE = {"Zs", "Zl", "Zp", "Cc", "Cf"}  # Unicode's blanks, control characters and marks of format


SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "development"),
    "test": ("test", "testing"),
}


class BadRecordError(Exception):
    """One record is invalid. The message does not contain its position; the caller adds it.

    ``kind``: the message without the details of the record. Bad records are counted by kind.
    """

    def __init__(self, message: str, kind: str | None = None):
        super().__init__(message)
        self.kind = kind or message


def split_named(cell: Any) -> str | None:
    """The split that a cell names: train, validation or test; None if it names none."""
    name = str(cell).strip().lower()
    return next((split for split, names in SPLIT_NAMES.items() if name in names), None)


def flat(columns: Iterable[Any]) -> list[Column]:
    """The columns as one list. An entry of ``columns`` is a column or a list of columns."""
    return [name for column in columns for name in (column if isinstance(column, list) else [column])]


def text_of(record: dict, column: Any, what: str = "text") -> str:
    """The text in a column, without surrounding white space. Raises BadRecordError if it is missing, empty or not text.

    A text of nothing but control characters and zero-width blanks is empty: a model would read no word of it.
    ``column`` may be a list: its columns' texts, except missing and empty ones, are joined by line breaks.
    ``what``: the name of the text in the message.
    """
    names = flat([column])
    text = "\n".join(filter(None, (_stripped(record.get(name), name) for name in names)))
    if not text:
        which = f"column '{names[0]}'" if len(names) == 1 else f"columns {', '.join(map(repr, names))}"
        raise BadRecordError(f"{which}: empty {what}")
    return text


def _stripped(cell: Any, column: Column) -> str:
    if cell is None or (isinstance(cell, float) and cell != cell):
        return ""
    if not isinstance(cell, str):
        raise BadRecordError(
            f"column '{column}': expected text, found {type(cell).__name__} {cell!r}", f"column '{column}': not text"
        )
    text = cell.strip()
    return text if any(unicodedata.category(character) not in INVISIBLE for character in text) else ""


def as_seen(text: str) -> str:
    """What a reader sees of a text: equal for texts that differ in the form of a character (é as one or two), in kinds
    of blanks, or in characters without a picture, such as zero-width blanks.
    """
    characters = ("" if unicodedata.category(one) == "Cf" else one for one in unicodedata.normalize("NFC", text))
    return " ".join("".join(characters).split())


def list_in_text(text: str) -> list | None:
    """The list that a text holds, as ``value_in_text`` reads it; None if there is none."""
    found = value_in_text(text)
    return found if isinstance(found, list) else None


class _ArraysToLists(ast.NodeTransformer):
    """Replaces numpy's ``array(['one', 'other'], dtype=object)`` by its list. Nothing is executed."""

    def visit_Call(self, node: ast.Call) -> ast.AST:  # noqa: N802 named by the library
        return node.args[0] if ast.unparse(node.func) == "array" and len(node.args) == 1 else node


def value_in_text(text: str) -> list | dict | None:
    """The list or object that a text holds in JSON, or in Python's form as pandas writes it to CSV; None if there is
    none. numpy's arrays within it become lists.
    """
    text = text.strip()
    if text[:1] + text[-1:] not in ("[]", "{}"):
        return None
    try:
        return parse_json(text)
    except ValueError:
        pass
    try:
        tree = ast.parse(text, mode="eval")
        has_arrays = any(isinstance(node, ast.Call) for node in ast.walk(tree))
        found = ast.literal_eval(_ArraysToLists().visit(tree))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    # A list of numpy's, which has no commas, would be read wrongly: ['a' 'b'] as ['ab']. `array(…)` has commas.
    is_whole = isinstance(found, list | dict) and (has_arrays or str(found) == text)
    return found if is_whole else None
