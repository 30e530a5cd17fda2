"""Long arrays on disk, read and written in parts: memory holds the part alone, whatever the array's length.

Several processes may write into one file and read what the others have written: nothing is kept in between. So the
files have no buffers, which would also read kilobytes for each row.
"""

import os
from pathlib import Path

import numpy as np

HAS_PLACES = hasattr(os, "pread")  # Windows has not


class ArrayFile:
    """Entries of one type, each a number or, where there is a ``width``, so many of them."""

    def __init__(self, file, dtype, width: int | None = None):
        """``file`` is open for what is wanted, and stands at the first entry."""
        self.file, self.dtype, self.width, self.begin = file, np.dtype(dtype), width, file.tell()
        self.size = self.dtype.itemsize * (width or 1)

    @classmethod
    def create(cls, path: str | Path, dtype) -> "ArrayFile":
        """An empty one, without a header."""
        return cls(open(path, "w+b", buffering=0), dtype)

    @classmethod
    def open(cls, path: str | Path, dtype) -> "ArrayFile":
        """One without a header, for reading only."""
        return cls(open(path, "rb", buffering=0), dtype)

    @classmethod
    def create_npy(cls, path: str | Path, dtype, shape: tuple[int, ...]) -> "ArrayFile":
        """One of this shape, (entries,) or (entries, width), which numpy can load once all entries are written."""
        file = open(path, "w+b", buffering=0)  # noqa: SIM115 closed with the array
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        return cls(file, dtype, *shape[1:])

    @classmethod
    def open_npy(cls, path: str | Path, mode: str = "rb") -> "ArrayFile":
        """For reading, or with "r+b" for writing too. ValueError where the file ends before its array."""
        file = open(path, mode, buffering=0)  # noqa: SIM115
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        made = cls(file, dtype, *shape[1:])
        if len(made) != shape[0]:
            raise ValueError(f"{path}: {len(made)} entries, expected {shape[0]}")
        return made

    def __len__(self) -> int:
        return (os.fstat(self.file.fileno()).st_size - self.begin) // self.size

    def read(self, start: int, stop: int) -> np.ndarray:
        """Entries ``start`` to ``stop``, or as many as there are: (entries,), or (entries, width)."""
        return self._entries(_read_at(self.file, self.begin + start * self.size, (stop - start) * self.size))

    def read_parts(self, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """So many entries from each start on, one part after the other."""
        places, sizes = (self.begin + starts * self.size).tolist(), (counts * self.size).tolist()
        parts = [_read_at(self.file, place, size) for place, size in zip(places, sizes, strict=True)]
        return self._entries(b"".join(parts))

    def write(self, start: int, values: np.ndarray) -> None:
        """Nothing but the values: another process may write beside them."""
        _write_at(self.file, self.begin + start * self.size, np.ascontiguousarray(values, self.dtype).tobytes())

    def write_parts(self, starts: np.ndarray, counts: np.ndarray, values: np.ndarray) -> None:
        """What ``values`` has one after the other, so many entries each, from each start on; as `write` does."""
        data, done = np.ascontiguousarray(values, self.dtype).tobytes(), 0
        places, sizes = (self.begin + starts * self.size).tolist(), (counts * self.size).tolist()
        for place, size in zip(places, sizes, strict=True):
            _write_at(self.file, place, data[done : done + size])
            done += size

    def append(self, values: np.ndarray) -> None:
        self.write(len(self), values)

    def close(self) -> None:
        self.file.close()

    def _entries(self, data: bytes) -> np.ndarray:
        found = np.frombuffer(data, self.dtype)
        return found.reshape(-1, self.width) if self.width else found


def _read_at(file, place: int, size: int) -> bytes:
    if HAS_PLACES:
        return os.pread(file.fileno(), size, place)
    file.seek(place)
    return file.read(size)


def _write_at(file, place: int, data: bytes) -> None:
    while data:  # where a disk is almost full, a part of it is written, and then an error is raised
        if HAS_PLACES:
            written = os.pwrite(file.fileno(), data, place)
        else:
            file.seek(place)
            written = file.write(data)
        place, data = place + written, data[written:]
