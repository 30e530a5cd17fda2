"""Records and texts of a source: a file, a split of a folder, or a data set of the hub.

``locations`` describes the forms of a location, ``readers`` the formats of files.
"""

import random
import re
from collections.abc import Iterator

import pandas as pd

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import first_ten, log
from pipeline.tinybert.core.settings import Column, Table, Text
from pipeline.tinybert.data import locations, readers, words

PUNKT_CHARACTERS = 1_000_000  # the sentence splitter is trained on about this many characters
SHORTEST_SENTENCE = 3  # words


def records(source: Table, split: str | None, columns: list[Column], key: str) -> Iterator[tuple[str, dict]]:
    """Yield (position, column → value) for each record of a source that meets its ``where`` setting.

    ``split``: a split of a hub data set, or a file in the folder that the location names.
    ``columns``: the columns that the source must have.
    Raises UserError, which names ``key``, if the source cannot be read, lacks a column or has no such record.
    """
    table, name = _read_source(source, split, key)
    conditions = {column: str(value) for column, value in source.where.items()}
    for column in (*columns, *conditions):
        if column not in table.columns:
            raise UserError(f"{key}: {name} has no column '{column}' (it has: {', '.join(map(str, table.columns))})")
    selected = pd.Series(True, index=table.index)
    for column, value in conditions.items():
        selected &= table[column].astype(str) == value
    unit, table = table.index.name, table[selected]
    if table.empty:
        raise UserError(f"{key}: {name} has no row" + (f" where {source.where}" if conditions else ""))
    names = list(table.columns)
    for position, *values in table.itertuples(name=None):
        yield f"{name}, {unit} {position}", dict(zip(names, values, strict=True))


def _read_source(source: Table, split: str | None, key: str) -> tuple[pd.DataFrame, str]:
    """All records of a split, and the name of the split for messages."""
    if source.location.startswith("hub:"):
        return _read_hub(source, split, key), f"{source.location}, {split or 'train'}"
    path = locations.local_path(source.location, f"{key}.location")
    if split:
        path = path / split
        if not source.location.startswith("package:"):
            locations.check_place(path, locations.raw_folder(key), f"{key}.splits", path.name)
    return readers.read_file(path, source, key), path.name


def _read_hub(source: Table, split: str | None, key: str) -> pd.DataFrame:
    """A split of a hub data set. Class indices are replaced by the names of the classes."""
    import datasets

    name, revision = locations.hub_id(source.location, f"{key}.location")
    log(f"downloading {name} at {revision}")
    try:
        data = datasets.load_dataset(name, source.config, split=split or "train", revision=revision)
    except Exception as error:
        if "Dataset scripts are no longer supported" in str(error):
            raise UserError(f"{key}: {source.location} requires remote code, which is refused") from error
        raise locations.download_error(source.location, f"{key}.location", error) from error
    table = data.to_pandas()
    for column, feature in data.features.items():
        if isinstance(feature, datasets.ClassLabel):
            table[column] = [feature.int2str(int(value)) if value >= 0 else None for value in table[column]]
        elif isinstance(getattr(feature, "feature", None), datasets.ClassLabel):
            table[column] = [[feature.feature.int2str(int(value)) for value in values] for values in table[column]]
    return table.set_index(pd.Index(range(1, len(table) + 1), name="row"))


def texts(source: Text, seed: int, key: str) -> list[str]:
    """The first ``limit`` distinct texts of a source, in a random order that ``seed`` determines.

    With ``sentences``, each text is split into sentences; those of fewer than three words are left out.
    """
    column = source.text or "text"
    documents, left_out = [], []
    for where, record in records(source, source.split, [column], key):
        if isinstance(record[column], str) and record[column].strip():
            documents.append(record[column].strip())
        else:
            left_out.append(where)
    if left_out:
        log(f"{key}: {len(left_out)} rows without text in column '{column}' left out: {first_ten(left_out)}")
    random.Random(seed).shuffle(documents)
    if source.sentences and (whole := sum(words.WITHOUT_SENTENCE_MARKS.search(text) is not None for text in documents)):
        log(f"{key}.sentences: {whole} texts in Thai or Lao, which have no sentence marks: their lines are kept whole")
    distinct: dict[str, None] = {}
    for text in _sentences(documents) if source.sentences else documents:
        distinct.setdefault(text)
        if len(distinct) == source.limit:
            break
    if not distinct:
        expected = f"sentence of {SHORTEST_SENTENCE} words" if source.sentences else "text"
        raise UserError(f"{key}: {source.location}: no {expected} in column '{column}'")
    return list(distinct)


def sample(source: Text, columns: list[Column], seed: int, key: str) -> list[tuple[str, dict]]:
    """The first ``limit`` records with several columns, in a random order that ``seed`` determines."""
    shuffled = list(records(source, source.split, columns, key))
    random.Random(seed).shuffle(shuffled)
    return shuffled[: source.limit]


def _sentences(documents: list[str]) -> Iterator[str]:
    """Split documents into sentences with Punkt, trained on the documents: NLTK's trained model needs a download."""
    from nltk.tokenize.punkt import PunktSentenceTokenizer, PunktTrainer

    documents = [re.sub(r"<br\s*/?>", "\n", document) for document in documents]
    training_text, characters = [], 0
    for document in documents:
        training_text.append(document)
        characters += len(document)
        if characters > PUNKT_CHARACTERS:
            break
    tokenizer = PunktSentenceTokenizer(PunktTrainer("\n".join(training_text)).get_params())
    for document in documents:
        for line in document.splitlines():
            for sentence in tokenizer.tokenize(line):
                for part in words.divide_sentence(sentence):
                    if words.count(part) >= SHORTEST_SENTENCE:
                        yield part.strip()
