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
    error: pydantic.ValidationError, root: type[Group], prefix: tuple[str, ...], places: Callable[[str], list[str]]
) -> str:
    """All errors in one line: each key, what was expected and what was found.

    ``prefix`` is the place of ``root`` in params.yaml. ``places``: key → where params.yaml has a setting of this name.
    """
    schema = root.model_json_schema()
    lines: dict[str, str] = {}
    for item in error.errors():
        keys = [key for key in item["loc"] if not (isinstance(key, str) and _is_union_branch(key))]
        name = ".".join(str(key) for key in (*prefix, *keys))
        if item["type"] == "extra_forbidden":
            known = _known_keys(schema, keys[:-1])
            elsewhere = places(str(keys[-1]))
            lines[name] = (
                f"{name}: unknown setting{suggestion(keys[-1], known)} (known here: {', '.join(known) or 'none'})"
                + (f": it belongs at {' or '.join(elsewhere)}" if 0 < len(elsewhere) <= MOST_PLACES else "")
            )
        elif item["type"] == "missing":
            may_be_blank = {"type": "null"} in _forms(schema, keys)
            lines[name] = f"{name}: missing" + (f" ({BLANK})" if may_be_blank else "")
        elif item["type"] == "invalid_key" or (item["type"] == "string_type" and item["loc"][-1] == "[key]"):
            order = ", or write the name of the label first and its value in the file second" * ("labels" in keys)
            found = f"{_shortened(keys[-1])} ({type(keys[-1]).__name__})"
            lines[name] = f"{name}: expected a name, found {found}: quote it{order}"
        elif item["type"] == "value_error":
            lines[name] = f"{name}: {item['ctx']['error']}"
        else:
            is_name = item["loc"][-1] == "[key]"  # the wrong value is a key of the file
            expected = in_words(schema, keys[:-1], "propertyNames") if is_name else in_words(schema, keys)
            found = f"{_shortened(item['input'])} ({type(item['input']).__name__})"
            lines[name] = f"{name}: expected {expected}, found {found}{_advice(schema, keys, item['input'])}"
    return "; ".join(lines.values())


def _shortened(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError as error:  # a whole number of more than 4,300 digits
        text = str(error)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _advice(schema: dict, keys: list[Any], found: Any) -> str:
    """How to write a value that has the wrong form: a list with one entry, or as in the setting's example."""
    forms = _forms(schema, keys)
    if isinstance(found, str | int | float) and all(form.get("type") in ("array", "null") for form in forms):
        return f": write [{found}]"
    fields = [form.get("properties", {}).get(keys[-1], {}) for form in _forms(schema, keys[:-1])] if keys else []
    example = next((str(field["examples"][0]) for field in fields if "examples" in field), "").replace("'", "")
    is_group = any("additionalProperties" in form for form in forms)
    return f": write, for example, {example}" if example and is_group and not isinstance(found, dict) else ""


def suggestion(word: Any, known: Iterable[Any]) -> str:
    close = difflib.get_close_matches(str(word), [str(key) for key in known], n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def in_words(schema: dict, keys: Iterable[Any] = (), part: str | None = None) -> str:
    """Type and range of the value under ``keys``, such as "a whole number (1 or more)".

    schema: JSON schema of a group. part: the part of the value's schema to describe, instead of all of it.
    """
    forms = _forms(schema, keys)
    if part is not None:
        forms = [_resolved(schema, form[part]) for form in forms if part in form]
    shown = [form for form in forms if form != {"type": "integer"} or {"type": "number"} not in forms]
    return " or ".join(_form_in_words(schema, form) for form in shown)


def _form_in_words(schema: dict, form: dict) -> str:
    kind = form.get("type", "")
    if "enum" in form or "const" in form:
        *others, last = [f"'{value}'" for value in form.get("enum", [form.get("const")])]
        return f"{', '.join(others)} or {last}" if others else last
    if kind == "array":
        limits = ["at least one"] * ("minItems" in form) + [f"each {limit}" for limit in _limits(form["items"])]
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
    return [name for form in _forms(schema, keys) for name in form.get("properties", {})]


def _forms(schema: dict, keys: Iterable[Any]) -> list[dict]:
    """The schemas of the forms that the value under ``keys`` may have, references resolved."""
    forms = [_resolved(schema, form) for form in schema.get("anyOf", [schema])]
    for key in keys:
        inner = [_inner(form, key) for form in forms]
        found = [form for form in inner if form is not None]
        forms = [_resolved(schema, form) for under in found for form in under.get("anyOf", [under])]
    return forms


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
