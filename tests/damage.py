"""What a failing disk does to a file."""

from collections.abc import Callable
from pathlib import Path


def flip(content: bytes) -> bytes:
    """One bit in the middle."""
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


KINDS: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[:-1],
    "emptied": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "flipped": flip,
}


def damage(path: Path, kind: str) -> bool:
    """Whether this changes the file."""
    before = path.read_bytes()
    after = KINDS[kind](before) if before else b""
    path.write_bytes(after)
    return after != before
