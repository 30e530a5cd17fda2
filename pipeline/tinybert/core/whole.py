"""Files that survive a killed process, a full disk and a power failure: written under another name, synced, renamed.

A resumed stage uses the files of an interrupted one only if their sizes and CRC-32 checksums are as recorded. It logs
damaged files and does not use them.
"""

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.tinybert.core.log import log

READ_SIZE = 1 << 20  # bytes


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces ``path`` when the block ends."""
    partial = path.with_name(f"{path.name}.partial")
    yield partial
    sync(partial)
    os.replace(partial, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the list of a folder's entries, is on the disk."""
    # Windows cannot open folders, and some file systems cannot sync them. Windows syncs only files opened for writing.
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        number = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def sync_all(path: Path) -> None:
    """Wait until a folder with all its contents is on the disk."""
    for entry in path.rglob("*"):
        sync(entry)
    sync(path)


def checksum(path: Path, size: int) -> int | None:
    """CRC-32 of a file's first ``size`` bytes; None if the file is shorter or missing."""
    crc = 0
    try:
        with open(path, "rb") as file:
            while size:
                if not (block := file.read(min(size, READ_SIZE))):
                    return None
                crc, size = zlib.crc32(block, crc), size - len(block)
    except FileNotFoundError:
        return None
    return crc


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file with its own checksum."""
    text = json.dumps(content)
    with atomic(path) as partial:
        partial.write_text(json.dumps({"checksum": zlib.crc32(text.encode()), "content": text}), encoding="utf-8")


def read(path: Path) -> dict[str, Any] | None:
    """The content of a file of `write`; None if the file is missing or damaged."""
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
    """The content of a marker of `seal`; None if the marker is missing, or if it or one of its files is damaged.

    A file may have grown since.
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
    """A file that grows. After an interruption it has the committed bytes; later bytes are cut off."""

    def __init__(self, path: Path):
        self.path, self.index_path = path, path.with_name(f"{path.name}.json")
        index = read(self.index_path) or {}
        self.size, self.checksum = index.get("size", 0), index.get("checksum", 0)
        if checksum(path, self.size) != self.checksum and self.size:
            _log_damaged(path)
            index, self.size, self.checksum = {}, 0, 0
        self.committed: dict[str, Any] = index.get("content", {})
        self.file = open(path, "a+b")  # noqa: SIM115 closed in `close`
        self.file.truncate(self.size)

    def append(self, data: bytes) -> None:
        self.file.write(data)
        self.size, self.checksum = self.size + len(data), zlib.crc32(data, self.checksum)

    def commit(self, **content) -> None:
        """Sync the file. ``committed`` will have this ``content`` when the file is opened again."""
        self.file.flush()
        os.fsync(self.file.fileno())
        write(self.index_path, {"size": self.size, "checksum": self.checksum, "content": content})

    def close(self) -> None:
        self.file.close()


def _log_damaged(path: Path) -> None:
    log(f"{path} is damaged and not used; the stage resumes from the last undamaged checkpoint")
