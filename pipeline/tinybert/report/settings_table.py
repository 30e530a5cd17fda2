"""Settings of several runs side by side."""

from collections.abc import Iterator


def flattened(group: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield (a.b, value) for each value of a nested dictionary."""
    for key, value in group.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def keys_that_differ(settings: list[dict]) -> list[str]:
    """The keys whose values differ, sorted; a missing value equals a blank one. Empty dictionaries do not count: the
    settings of these runs are not known.
    """
    known = [values for values in settings if values]
    keys = sorted({key for values in known for key in values})
    return [key for key in keys if len({str(values.get(key)) for values in known}) > 1]
