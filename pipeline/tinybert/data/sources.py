"""Records and texts of a source: a file, a split of a folder, or a dataset of the hub.

``locations`` describes the forms of a location, ``readers`` the formats of files. Records are read one by one. What has
to be shuffled waits in a temporary file, so that memory does not grow with the source.
"""

import hashlib
import pickle
import random
import re
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import first_ten, log
from pipeline.tinybert.core.settings import Column, Settings, Table, Text
from pipeline.tinybert.data import locations, readers, words
from pipeline.tinybert.data.cells import BadRecordError, flat, text_of

PUNKT_CHARACTERS = 1_000_000  # the sentence splitter is trained on about this many characters
LONGEST_PART = 50_000  # characters of a line that are divided into sentences at once
SHORTEST_SENTENCE = 3  # words


def records(source: Table, split: str | None, columns: list[Column], key: str) -> Iterator[tuple[str, dict]]:
    """Yield (position, column → value) for each record of a source that meets its ``where`` setting.

    ``split``: a split of a hub dataset, or a file in the folder that the location names.
    ``columns``: the columns that the source must have; None where a record lacks one.
    Raises UserError, which names ``key``, if the source cannot be read, lacks a column or has no such record.
    """
    found, name, path = _read_source(source, split, key)
    conditions = {column: {str(value) for value in flat([values])} for column, values in source.where.items()}
    seen: dict[Column, None] = {}  # the columns of all records
    selected = 0
    for position, record in found:
        seen |= dict.fromkeys(record)
        if all(str(record.get(column)) in values for column, values in conditions.items()):
            selected += 1
            yield f"{name}, {position}", {**dict.fromkeys(columns), **record}
    for column in (*columns, *conditions) if seen else ():
        if column not in seen:
            hint = readers.delimiter_hint(path, source) if path else ""
            raise UserError(f"{key}: {name} has no column '{column}' (it has: {', '.join(map(str, seen))}){hint}")
    if not selected:
        raise UserError(f"{key}: {name} has no row" + (f" where {source.where}" if conditions else ""))


def unlabelled(configuration: Settings, name: str, kind_reads_texts: bool) -> tuple[str, Text | None]:
    """The key and the settings of the text that the teacher labels for a task: the task's own text or, if its rows are
    single texts, general text.
    """
    entry, general = configuration.task(name), configuration.encoder.masked_language_model.text
    if entry.unlabelled:
        return f"tasks.{name}.unlabelled", entry.unlabelled
    takes_none = entry.source.pair or not kind_reads_texts
    count = 0 if takes_none else configuration.quietly("augment", name).general_texts
    changes = {"limit": min(count, general.limit), "text": general.text or "text"}
    return "encoder.masked_language_model.text", general.model_copy(update=changes) if count else None


def _read_source(source: Table, split: str | None, key: str) -> tuple[readers.Records, str, Path | None]:
    """The records of a split, the name of the split for messages, and its file, if it is no dataset of the hub."""
    if source.location.startswith("hub:"):
        return _read_hub(source, split, key), f"{source.location}, {split or 'train'}", None
    path = locations.local_path(source.location, f"{key}.location")
    if split:
        path = path / split
        if not source.location.startswith("package:"):
            locations.check_place(path, locations.raw_folder(key), f"{key}.splits", path.name)
    return readers.records(path, source, key), path.name, path


def _read_hub(source: Table, split: str | None, key: str) -> readers.Records:
    """The records of a split of a hub dataset. Class indices are replaced by the names of the classes."""
    import datasets

    name, revision = locations.hub_id(source.location, f"{key}.location")
    if Path(name).exists():
        raise UserError(
            f"{key}.location: {source.location}: `datasets` would read the local folder {name} in place of the hub's"
            f" dataset: rename the folder, or name its files: a path in {locations.raw_folder(key)}"
        )
    log(f"downloading {name} at {revision}")
    try:
        data = datasets.load_dataset(name, source.config, split=split or "train", revision=revision)
    except Exception as error:
        if "Dataset scripts are no longer supported" in str(error):
            raise UserError(f"{key}: {source.location} requires remote code, which is refused") from error
        raise locations.download_error(source.location, f"{key}.location", error) from error
    batches = data.with_format("arrow").iter(readers.ROWS_AT_ONCE)
    yield from readers.rows_of(batches, readers.class_names(data.features))


def texts(source: Text, seed: int, key: str) -> list[str]:
    """All that ``each_text`` yields."""
    return list(each_text(source, seed, key))


def each_text(source: Text, seed: int, key: str) -> Iterator[str]:
    """Yield the first ``limit`` distinct texts of a source, in a random order that ``seed`` determines.

    With ``sentences``, each text is split into sentences; those of fewer than three words are left out.
    """
    column: Any = source.text or "text"
    shown = ", ".join(map(str, flat([column])))
    left_out, unmarked = [], 0

    def documents() -> Iterator[str]:
        nonlocal unmarked
        for where, record in records(source, source.split, flat([column]), key):
            try:
                text = text_of(record, column)
            except BadRecordError:
                left_out.append(where)
                continue
            unmarked += words.WITHOUT_SENTENCE_MARKS.search(text) is not None
            yield text

    shuffled = _Shuffled(documents(), seed)
    if left_out:
        log(f"{key}: {len(left_out)} rows without text in column '{shown}' left out: {first_ten(left_out)}")
    if source.sentences and unmarked:
        log(
            f"{key}.sentences: {unmarked} texts in Thai or Lao, which have no sentence marks: their lines are kept"
            " whole"
        )
    count = 0
    known: set[bytes] = set()  # hashes, which take less memory than the texts
    for text in _sentences(shuffled) if source.sentences else shuffled:
        known.add(hashlib.blake2b(text.encode(), digest_size=16).digest())
        if len(known) > count:
            count += 1
            yield text
        if count == source.limit:
            break
    if not count:
        expected = f"sentence of {SHORTEST_SENTENCE} words" if source.sentences else "text"
        raise UserError(f"{key}: {source.location}: no {expected} in column '{shown}'")


def sample(source: Text, columns: list[Column], seed: int, key: str) -> list[tuple[str, dict]]:
    """The first ``limit`` records with several columns, in a random order that ``seed`` determines."""
    found = records(source, source.split, columns, key)
    only_needed = ((where, {column: record[column] for column in columns}) for where, record in found)
    return list(islice(_Shuffled(only_needed, seed), source.limit))


class _Shuffled:
    """Values in a random order that ``seed`` determines. They wait on disk; memory holds their places, 8 bytes each."""

    def __init__(self, values: Iterable, seed: int):
        self._file = tempfile.TemporaryFile(dir=".")  # noqa: SIM115 the system deletes it with this object
        self._places = array("Q")
        for value in values:
            self._places.append(self._file.tell())
            pickle.dump(value, self._file)
        random.Random(seed).shuffle(self._places)

    def __iter__(self) -> Iterator[Any]:
        for place in self._places:
            self._file.seek(place)
            yield pickle.load(self._file)


def _sentences(documents: Iterable[str]) -> Iterator[str]:
    """Split documents into sentences with Punkt, trained on the documents: NLTK's trained model needs a download."""
    from nltk.tokenize.punkt import PunktSentenceTokenizer, PunktTrainer

    training_text, characters = [], 0
    for document in map(_with_line_breaks, documents):
        training_text.append(document[:PUNKT_CHARACTERS])
        characters += len(document)
        if characters > PUNKT_CHARACTERS:
            break
    tokenizer = PunktSentenceTokenizer(PunktTrainer("\n".join(training_text)).get_params())
    for document in map(_with_line_breaks, documents):
        for line in document.splitlines():
            for sentence in _of_line(line, tokenizer):
                for part in words.divide_sentence(sentence):
                    if words.count(part) >= SHORTEST_SENTENCE:
                        yield part.strip()


def _of_line(line: str, tokenizer: Any) -> Iterator[str]:
    """The sentences of a line, which may be a whole book, part by part: NLTK stops after five seconds on one text."""
    start = 0
    while start < len(line):
        part = line[start : start + LONGEST_PART]
        start += len(part)
        spans = list(tokenizer.span_tokenize(part))
        if start < len(line) and len(spans) > 1:  # the last sentence may go on in the next part
            start -= len(part) - spans.pop()[0]
        yield from (part[low:high] for low, high in spans)


def _with_line_breaks(document: str) -> str:
    return re.sub(r"<br\s*/?>", "\n", document)
