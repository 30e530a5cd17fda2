"""Long arrays on disk, memory-mapped: the memory in use does not depend on the array's length."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

BLOCK = 1 << 16  # bytes: the system also maps the pages around one that is touched
RESIDENT = 1 << 23  # bytes that accesses may leave in memory before the file is mapped anew


class MappedArray:
    """A one- or two-dimensional array in a file, read and written by index: ``array[numbers]``, ``array[start:stop]``.

    Pages that were touched stay in memory while the file is mapped, so the mapping is renewed after some accesses.
    Several processes may write different entries of one file.
    """

    def __init__(self, open_file: Callable[[], np.ndarray]):
        self._open, self._touched = open_file, 0
        self._mapped: np.ndarray | None = np.asarray(open_file())
        self.shape, self.dtype = self._mapped.shape, self._mapped.dtype

    @classmethod
    def open(cls, path: str | Path, dtype=None, mode: Literal["r", "r+"] = "r") -> "MappedArray":
        """A .npy file, or (with ``dtype``) a file of nothing but values. ``mode``: "r", or "r+" to write too.

        Raises ValueError or OSError if the file is missing, or shorter than its header says.
        """
        path = Path(path).absolute()  # it is opened again
        if dtype is None:
            return cls(lambda: np.load(path, mmap_mode=mode))
        return cls(lambda: np.memmap(path, dtype, mode) if path.stat().st_size else np.empty(0, dtype))

    @classmethod
    def create(cls, path: str | Path, dtype, shape: tuple[int, ...], value=0) -> "MappedArray":
        """A new .npy file of this shape, filled with ``value``.

        The whole file is written now, so that a full disk raises OSError here. Without space, a later write through the
        mapping would kill the process.
        """
        dtype = np.dtype(dtype)
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        row = np.full((1, *shape[1:]), value, dtype).tobytes()
        at_once = max(1, BLOCK // max(1, len(row)))
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, shape[0], at_once):
                file.write(row * min(at_once, shape[0] - start))
        return cls.open(path, mode="r+")

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * (self.shape[1] if len(self.shape) > 1 else 1)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        """A copy of these entries."""
        parts = [np.array(self._for_access(part)[part]) for part in self._parts(index)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def __setitem__(self, index: slice | np.ndarray, values) -> None:
        self._for_access(index)[index] = values

    def _parts(self, index: slice | np.ndarray) -> list:
        """Split an index into parts that each touch at most ``RESIDENT`` bytes; a slice stays whole."""
        most = max(1, RESIDENT // BLOCK)
        if isinstance(index, slice) or len(index) <= most:
            return [index]
        changes = 1 + np.flatnonzero(np.diff(self._blocks(index)))
        return np.split(index, changes[most - 1 :: most])

    def _for_access(self, index: slice | np.ndarray) -> np.ndarray:
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            touched = max(0, stop - start) * self.row_bytes
        else:
            touched = (1 + int(np.count_nonzero(np.diff(self._blocks(index))))) * BLOCK
        if self._mapped is None or self._touched + touched > RESIDENT:
            self._mapped = None  # unmaps the file
            self._mapped, self._touched = np.asarray(self._open()), 0
        self._touched += touched
        return self._mapped

    def _blocks(self, index: np.ndarray) -> np.ndarray:
        """The block of the file in which each of these entries lies."""
        return index * self.row_bytes // BLOCK

    def close(self) -> None:
        self._mapped = None
