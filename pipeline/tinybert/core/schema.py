"""A settings schema in words: what a key expects, and what is wrong with the values of a file."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

import pydantic

MOST_PLACES = 3  # no place is suggested for a key that more groups have
LONGEST_VALUE = 200  # characters
BLANK = "it may be blank, but DVC needs the key"
WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "object": "a group of settings",
    "null": "blank",
}
PLURALS = {"integer": "whole numbers", "number": "numbers", "string": "texts"}


class Group(pydantic.BaseModel):
    """A group of settings. Unknown keys and values of another type are errors."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def explain(
    error: pydantic.ValidationError, root: type[Group], prefix: tuple[str, ...], find_key: Callable[[str], list[str]]
) -> str:
    """All errors in one line: each key, what was expected and what was found.

    ``prefix`` is the place of ``root`` in params.yaml. ``find_key``: returns where params.yaml has a setting of this
    name.
    """
    schema = root.model_json_schema()
    lines: dict[str, str] = {}
    for item in error.errors():
        keys = [key for key in item["loc"] if not (isinstance(key, str) and _is_union_branch(key))]
        is_key = item["loc"][-1:] == ("[key]",)  # the wrong value is a key of the file
        if item["type"] == "extra_forbidden":
            problem = _unknown_key(schema, keys, find_key)
        elif item["type"] == "missing":
            problem = _missing_key(schema, keys)
        elif item["type"] == "invalid_key" or (item["type"] == "string_type" and is_key):
            problem = _bad_key(keys)
        elif item["type"] == "value_error":
            problem = str(item["ctx"]["error"])
        else:
            problem = _bad_value(schema, keys, item["input"], is_key)
        name = ".".join(str(key) for key in (*prefix, *keys))
        lines[name] = f"{name}: {problem}"
    return "; ".join(lines.values())


def _unknown_key(schema: dict, keys: list[Any], find_key: Callable[[str], list[str]]) -> str:
    known, places = _known_keys(schema, keys[:-1]), find_key(str(keys[-1]))
    problem = f"unknown setting{suggestion(keys[-1], known)} (known here: {', '.join(known) or 'none'})"
    return f"{problem}: it belongs at {' or '.join(places)}" if 0 < len(places) <= MOST_PLACES else problem


def _missing_key(schema: dict, keys: list[Any]) -> str:
    may_be_blank = {"type": "null"} in _alternatives(schema, keys)
    return f"missing ({BLANK})" if may_be_blank else "missing"


def _bad_key(keys: list[Any]) -> str:
    """What is wrong with a key that is no text, such as the number 0 among `labels`."""
    problem = f"expected a name, found {_shortened(keys[-1])} ({type(keys[-1]).__name__}): quote it"
    if "labels" in keys:
        return f"{problem}, or write the name of the label first and its value in the file second"
    return problem


def _bad_value(schema: dict, keys: list[Any], found: Any, is_key: bool) -> str:
    """``is_key``: the value is the last key itself, such as the name of a split."""
    expected = in_words(schema, keys[:-1], "propertyNames") if is_key else in_words(schema, keys)
    return f"expected {expected}, found {_shortened(found)} ({type(found).__name__}){_advice(schema, keys, found)}"


def _shortened(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError as error:  # a whole number of more than 4,300 digits
        text = str(error)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _advice(schema: dict, keys: list[Any], found: Any) -> str:
    """How to write a value that has the wrong form: a list with one entry, or as in the setting's example."""
    alternatives = _alternatives(schema, keys)
    if isinstance(found, str | int | float) and all(form.get("type") in ("array", "null") for form in alternatives):
        return f": write [{found}]"
    groups = _alternatives(schema, keys[:-1]) if keys else []
    fields = [group.get("properties", {}).get(keys[-1], {}) for group in groups]
    example = next((str(field["examples"][0]) for field in fields if "examples" in field), "").replace("'", "")
    is_group = any("additionalProperties" in form for form in alternatives)
    return f": write, for example, {example}" if example and is_group and not isinstance(found, dict) else ""


def suggestion(word: Any, known: Iterable[Any]) -> str:
    close = difflib.get_close_matches(str(word), [str(key) for key in known], n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def in_words(schema: dict, keys: Iterable[Any] = (), part: str | None = None) -> str:
    """Type and range of the value under ``keys``, such as "a whole number (1 or more)".

    schema: JSON schema of a group. part: the part of the value's schema to describe, instead of all of it.
    """
    alternatives = _alternatives(schema, keys)
    if part is not None:
        alternatives = [_resolved(schema, form[part]) for form in alternatives if part in form]
    shown = [form for form in alternatives if form != {"type": "integer"} or {"type": "number"} not in alternatives]
    return " or ".join(_form_in_words(schema, form) for form in shown)


def _form_in_words(schema: dict, form: dict) -> str:
    kind = form.get("type", "")
    if "enum" in form or "const" in form:
        *others, last = [f"'{value}'" for value in form.get("enum", [form.get("const")])]
        return f"{', '.join(others)} or {last}" if others else last
    if kind == "array":
        limits = ["at least one"] if "minItems" in form else []
        limits += [f"each {limit}" for limit in _limits(form["items"])]
        return f"a list of {PLURALS.get(form['items'].get('type'), 'values')}{_in_brackets(limits)}"
    if "properties" in form:
        return f"a group of settings ({', '.join(form['properties'])})"
    if isinstance(form.get("additionalProperties"), dict):
        return f"pairs of a name and {in_words({**form['additionalProperties'], '$defs': schema.get('$defs', {})})}"
    if kind == "string" and form.get("maxLength") == 1:
        return "one character"
    return WORDS[kind] + _in_brackets(_limits(form))


def _limits(form: dict) -> list[str]:
    low, high = form.get("minimum"), form.get("maximum")
    above, below = form.get("exclusiveMinimum"), form.get("exclusiveMaximum")
    if form.get("type") == "integer":
        low, above = (above + 1, None) if above is not None else (low, None)
        high, below = (below - 1, None) if below is not None else (high, None)
    if low is not None and high is not None:
        return [f"{low} to {high}"]
    limits = {"{:g} or more": low, "more than {:g}": above, "at most {:g}": high, "less than {:g}": below}
    return [" and ".join(text.format(limit) for text, limit in limits.items() if limit is not None)]


def _in_brackets(limits: list[str]) -> str:
    text = ", ".join(limit for limit in limits if limit not in ("", "each "))
    return f" ({text})" if text else ""


def _known_keys(schema: dict, keys: Iterable[Any]) -> list[str]:
    return [name for form in _alternatives(schema, keys) for name in form.get("properties", {})]


def _alternatives(schema: dict, keys: Iterable[Any]) -> list[dict]:
    """The schemas that the value under ``keys`` may have (`anyOf`), references resolved."""
    alternatives = [_resolved(schema, form) for form in schema.get("anyOf", [schema])]
    for key in keys:
        inner = [_inner(form, key) for form in alternatives]
        found = [form for form in inner if form is not None]
        alternatives = [_resolved(schema, form) for under in found for form in under.get("anyOf", [under])]
    return alternatives


def _inner(form: dict, key: Any) -> dict | None:
    if isinstance(key, int):
        return form.get("items")
    others = form.get("additionalProperties")
    return form.get("properties", {}).get(key) or (others if isinstance(others, dict) else None)


def _resolved(schema: dict, form: dict) -> dict:
    return schema["$defs"][form["$ref"].rpartition("/")[2]] if "$ref" in form else form


def _is_union_branch(key: str) -> bool:
    """Whether pydantic added this part to an error's location; it is not a key of the file."""
    return key.startswith(("literal[", "list[", "constrained-")) or key in ("str", "int", "float", "bool", "[key]")
