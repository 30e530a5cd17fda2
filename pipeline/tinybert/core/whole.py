"""Files that survive a killed process, a full disk and a power failure: written beside their place, synced, then named.

What an interrupted stage leaves is used only if it is as it was written: sizes and CRC-32 checksums stand beside it.
What is damaged is logged and left out.
"""

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.tinybert.core.log import log

AT_ONCE = 1 << 20  # bytes that are read together


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield where to write a file that replaces ``path`` when the block ends."""
    partial = path.with_name(f"{path.name}.partial")
    yield partial
    sync(partial)
    os.replace(partial, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    # Windows opens no folders, and some file systems sync none. Windows syncs only files that it may write.
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        number = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def sync_all(path: Path) -> None:
    """The same for a folder with all that it holds."""
    for entry in path.rglob("*"):
        sync(entry)
    sync(path)


def checksum(path: Path, size: int) -> int | None:
    """CRC-32 of a file's first ``size`` bytes; None if it has fewer, or none."""
    found = 0
    try:
        with open(path, "rb") as file:
            while size:
                if not (block := file.read(min(size, AT_ONCE))):
                    return None
                found, size = zlib.crc32(block, found), size - len(block)
    except FileNotFoundError:
        return None
    return found


def write(path: Path, content: dict[str, Any]) -> None:
    """A JSON file with its own checksum."""
    text = json.dumps(content)
    with atomic(path) as partial:
        partial.write_text(json.dumps({"checksum": zlib.crc32(text.encode()), "content": text}), encoding="utf-8")


def read(path: Path) -> dict[str, Any] | None:
    """What `write` wrote; None if there is no such file, or if it is damaged."""
    try:
        saved = json.loads(path.read_bytes())
        if zlib.crc32(saved["content"].encode()) == saved["checksum"]:
            return json.loads(saved["content"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    _log_damaged(path)
    return None


def seal(marker: Path, files: Iterable[Path], **content) -> None:
    """Sync ``files``, then write ``marker``: a JSON file with their sizes and checksums, and further ``content``."""
    sums = {}
    for file in files:
        sync(file)
        size = file.stat().st_size
        sums[Path(os.path.relpath(file, marker.parent)).as_posix()] = size, checksum(file, size)
    write(marker, {"files": sums, **content})


def sealed(marker: Path) -> dict[str, Any] | None:
    """The content of a marker whose files are as they were when it was written; a file may have grown since.

    None if there is no such marker, or if anything is damaged.
    """
    content = read(marker)
    if content is None:
        return None
    for name, (size, expected) in content["files"].items():
        if checksum(marker.parent / name, size) != expected:
            _log_damaged(marker.parent / name)
            return None
    return content


class AppendedFile:
    """A file that grows. What was committed is found again after an interrupt; what came after it is cut off."""

    def __init__(self, path: Path):
        self.path, self.index = path, path.with_name(f"{path.name}.json")
        noted = read(self.index) or {}
        self.size, self.checksum = noted.get("size", 0), noted.get("checksum", 0)
        if checksum(path, self.size) != self.checksum and self.size:
            _log_damaged(path)
            noted, self.size, self.checksum = {}, 0, 0
        self.committed: dict[str, Any] = noted.get("content", {})
        self.file = open(path, "a+b")  # noqa: SIM115 closed in `close`
        self.file.truncate(self.size)

    def append(self, data: bytes) -> None:
        self.file.write(data)
        self.size, self.checksum = self.size + len(data), zlib.crc32(data, self.checksum)

    def commit(self, **content) -> None:
        """``content`` is found in ``committed`` when the file is opened again."""
        self.file.flush()
        os.fsync(self.file.fileno())
        write(self.index, {"size": self.size, "checksum": self.checksum, "content": content})

    def close(self) -> None:
        self.file.close()


def _log_damaged(path: Path) -> None:
    log(f"{path} is damaged: it is left out, and the stage starts from what is whole")
