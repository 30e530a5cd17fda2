"""Settings of several runs side by side."""

from collections.abc import Iterator


def flattened(group: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield (a.b, value) for each value of a nested dictionary."""
    for key, value in group.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
