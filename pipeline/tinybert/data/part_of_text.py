"""The place of a part of a text, such as an answer or an entity."""

import re

from pipeline.tinybert.core.log import first_ten
from pipeline.tinybert.data.cells import BadRecordError

NEARBY = 50  # an offset is repaired if it is wrong by at most this many characters


def stripped_before(text: str) -> int:
    """The number of characters that ``text.strip()`` removes at the start."""
    return len(text) - len(text.lstrip())


def find_part(part: str, start: int, text: str, what: str, of: str) -> int:
    """The start of a part of a text: the given one if the part is there, else its only occurrence nearby.

    ``what``, ``of``: what the part and the text are, for messages. Raises BadRecordError if the part does not occur, or
    not exactly once nearby.
    """
    if start >= 0 and text.startswith(part, start):
        return start
    if part not in text:
        raise BadRecordError(
            f"the {what} '{part}' does not occur in its {of}", f"the {what} does not occur in its {of}"
        )
    low, high = max(0, start - NEARBY), max(0, start + len(part) + NEARBY)
    near = [match.start() + low for match in re.finditer(re.escape(part), text[low:high])]
    if len(near) != 1:
        starts = first_ten([match.start() for match in re.finditer(re.escape(part), text)])
        raise BadRecordError(
            f"the {what} '{part}' is not at character {start} of its {of}, but at {starts}: correct its start",
            f"the {what} is not at its start",
        )
    return near[0]
