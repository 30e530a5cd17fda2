"""Encoded sequences on disk, as many as there may be: in memory are their lengths alone, two bytes each."""

from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from pipeline.tinybert.core import resume
from pipeline.tinybert.data.arrays import ArrayFile
from pipeline.tinybert.models.batches import Parts


class Sequences(Dataset):
    """Model inputs, which rows of class logits count (``kept``), and ``number``: ``data[i]`` is a dict of them, as of a
    data set of the library.
    """

    def __init__(self, files: dict[str, ArrayFile], lengths: np.ndarray, numbers: np.ndarray | None = None):
        """``lengths``: of all sequences of the files. ``numbers``: those that are meant, all where it is None."""
        self.files, self.all_lengths, self.numbers = files, lengths, numbers
        self.lengths = lengths if numbers is None else lengths[numbers]

    @classmethod
    def kept(cls, folder: str | Path) -> "Sequences | None":
        """Those that a run that was killed had encoded in ``folder``; None where it did not come to the end of them."""
        lengths = Path(folder, LENGTHS)
        if not lengths.exists():
            return None
        paths = [path for path in Path(folder).glob("*.bin") if path.stem in TYPES]
        return cls({path.stem: ArrayFile.open(path, TYPES[path.stem]) for path in paths}, np.load(lengths))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = index if self.numbers is None else int(self.numbers[index])
        start, stop = (int(place) for place in self.files["starts"].read(number, number + 2))
        columns = {name: file.read(start, stop).tolist() for name, file in self.files.items() if name in PIECEWISE}
        kept = columns.pop("kept", None)
        return {
            **columns,
            "attention_mask": [1] * (stop - start),
            "kept": [True] if kept is None else kept,
            "number": number,
        }

    def batch(self, indices: list[int] | np.ndarray) -> dict[str, Parts | np.ndarray]:
        """Columns of several sequences, as a `Collator` takes them."""
        numbers = np.asarray(indices) if self.numbers is None else self.numbers[indices].astype(np.int64)
        starts = self.files["starts"].read_parts(numbers, np.ones_like(numbers))
        counts = self.all_lengths[numbers].astype(np.int64)
        columns = {
            name: Parts(file.read_parts(starts, counts), counts)
            for name, file in self.files.items()
            if name in PIECEWISE
        }
        return {
            "attention_mask": Parts(np.ones(counts.sum(), dtype=np.int64), counts),
            "kept": np.ones((len(numbers), 1), dtype=np.bool_),
            **columns,
            "number": numbers,
        }

    __getitems__ = batch  # a loader's name for it

    def select(self, indices: np.ndarray) -> "Sequences":
        indices = indices.astype(np.int32)
        return Sequences(self.files, self.all_lengths, indices if self.numbers is None else self.numbers[indices])

    def counts(self) -> np.ndarray:
        """How many rows of class logits count in each sequence of the files."""
        count = len(self.all_lengths)
        return self.files["counts"].read(0, count) if "counts" in self.files else np.ones(count, dtype=np.uint16)

    def close(self) -> None:
        for file in self.files.values():
            file.close()


PIECEWISE = {"input_ids": np.int32, "token_type_ids": np.uint8, "kept": np.bool_}  # an entry a word-piece
TYPES = {"starts": np.int64, "counts": np.uint16, **PIECEWISE}
LENGTHS = "lengths.npy"  # the last file


class SequencesWriter:
    """Takes columns of `Task.encode`, part by part; ``finished`` gives back what has been written."""

    def __init__(self, folder: str | Path):
        self.folder, self.files, self.lengths = Path(folder), {}, []
        self.place = 0
        self._append("starts", [0])

    def __len__(self) -> int:
        return sum(map(len, self.lengths))

    def add(self, columns: dict[str, list]) -> None:
        lengths = np.array([len(ids) for ids in columns["input_ids"]], dtype=np.uint16)
        self.lengths.append(lengths)
        self._append("starts", self.place + np.cumsum(lengths, dtype=np.int64))
        self.place += int(lengths.sum())
        one_row_each = all(len(kept) == 1 for kept in columns["kept"])  # a sequence has two word-pieces at least
        for name in PIECEWISE:
            if name in columns and not (name == "kept" and one_row_each):
                self._append(name, [entry for sequence in columns[name] for entry in sequence])
        if not one_row_each:
            self._append("counts", [sum(kept) for kept in columns["kept"]])

    def _append(self, name: str, values) -> None:
        if name not in self.files:
            self.files[name] = ArrayFile.create(self.folder / f"{name}.bin", TYPES[name])
        self.files[name].append(np.asarray(values, TYPES[name]))

    def finished(self) -> Sequences:
        lengths = np.concatenate([np.zeros(0, dtype=np.uint16), *self.lengths])
        resume.save(self.folder / LENGTHS, lengths)
        return Sequences(self.files, lengths)
