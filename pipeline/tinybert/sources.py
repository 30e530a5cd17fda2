"""Installed packages, the hub and files, by one grammar of locations.

``package:NAME/PATH``         a file or folder that an installed package ships
``hub:OWNER/NAME@COMMIT``     a model or data set of the Hugging Face hub, pinned: a branch would move
``gensim:NAME``               word vectors of gensim's downloads
anything else                 a path, from the top of the repository

Nothing that is fetched is executed: no package is imported, no remote code is allowed.
"""

import csv
import importlib.util
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pandas as pd

from pipeline.tinybert.settings import Source, Text
from pipeline.tinybert.stage import UserError, say

PUNKT_CHARACTERS = 1_000_000
SHORTEST_SENTENCE = 3  # words
COMMIT = re.compile(r"[0-9a-f]{40}")

huggingface_hub.logging.set_verbosity_error()  # it warns of each of its retries


def local_path(location: str, key: str) -> Path:
    """The file or folder on this machine that a ``package:`` location or a path names.

    ``key`` is the setting that holds the location, for the message.
    """
    if not location.startswith("package:"):
        path = Path(location)
        if not path.exists():
            raise UserError(f"{key}: there is no file or folder {location}")
        return path
    name, _, inner = location.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{key}: no package '{name}' is installed: pip install it (requirements.txt), or change {key}")
    path = Path(next(iter(spec.submodule_search_locations))) / inner
    if not path.exists():
        raise UserError(f"{key}: the installed package '{name}' has no {inner}")
    return path


def hub_id(location: str, key: str) -> tuple[str, str]:
    """``hub:OWNER/NAME@COMMIT`` as (OWNER/NAME, COMMIT)."""
    name, _, commit = location.removeprefix("hub:").partition("@")
    if not name or not COMMIT.fullmatch(commit):
        raise UserError(
            f"{key}: {location}: expected hub:OWNER/NAME@COMMIT, the 40 hexadecimal digits of a commit of the"
            " repository (its page lists them under Files, History): a branch or a tag would move"
        )
    return name, commit


def checkpoint_folder(location: str, key: str) -> Path:
    """The folder of a model: config.json, weights, tokenizer. Downloads it where it is on the hub.

    Refuses a folder whose config asks for code of its own (``auto_map``).
    """
    folder = _download_model(location, key) if location.startswith("hub:") else local_path(location, key)
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(f"{key}: {location} has no config.json: expected the folder of a Hugging Face model")
    for file in (path for path in (config, folder / "tokenizer_config.json") if path.is_file()):
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{key}: {location}: {file.name} is not valid JSON: {error}") from None
        if "auto_map" in settings:
            raise UserError(
                f"{key}: {location} wants code of its own to be run (auto_map in {file.name}), which is refused"
            )
    return folder


def _download_model(location: str, key: str) -> Path:
    name, revision = hub_id(location, key)
    say(f"downloading {name} at {revision}")
    huggingface_hub.utils.enable_progress_bars()  # which transformers' own switch turns off
    patterns = ["*.json", "*.txt", "*.safetensors"]
    try:
        folder = Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
        if not any(folder.glob("*.safetensors")):
            huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=["pytorch_model.bin"])
    except Exception as error:
        raise UserError(_cannot_fetch(location, key, error)) from error
    return folder


def _cannot_fetch(location: str, key: str, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"{key}: cannot fetch {location} ({type(error).__name__}: {reason}): check the name, the revision and the"
        " network, or name an installed package or a folder"
    )


def records(source: Source | Text, split: str | None, key: str) -> Iterator[tuple[str, dict]]:
    """Yield (where it stands, column → value) of each record of a source that meets ``where``.

    ``split`` names a split of a hub data set, or a file in the folder that the location names.
    """
    wanted = {column: str(value) for column, value in source.where.items()}
    if source.location.startswith("hub:"):
        table, name = _hub_table(source, split, key), source.location
    else:
        path = local_path(source.location, f"{key}.location")
        path = path / split if split else path
        table, name = _file_table(path, key), path.name
    columns = list(table.columns)
    for column in [source.text, *([source.label] if getattr(source, "label", None) else []), *wanted]:
        if column not in columns:
            raise UserError(f"{key}: {name} has no column '{column}' (it has: {', '.join(map(str, columns))})")
    keep = pd.Series(True, index=table.index)
    for column, value in wanted.items():
        keep &= table[column].astype(str) == value
    table = table[keep]
    if table.empty:
        raise UserError(f"{key}: {name} has no row" + (f" where {source.where}" if wanted else ""))
    for index, *values in table.itertuples(name=None):
        yield f"{name}, row {index + 1}", dict(zip(columns, values, strict=True))


def _file_table(path: Path, key: str) -> pd.DataFrame:
    """The records of a file, its values as they stand there: no type is guessed, no number becomes another."""
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise UserError(f"{key}: {path}: expected a file that ends with one of {', '.join(READERS)}")
    if not path.is_file():
        raise UserError(f"{key}: there is no file {path}")
    try:
        return read(path)
    except (ValueError, OSError, csv.Error) as error:
        raise UserError(f"{key}: {path} cannot be read as {path.suffix[1:]}: {error}") from error


def _read_csv(path: Path, delimiter: str = ",") -> pd.DataFrame:
    csv.field_size_limit(1 << 30)
    records = []
    with open(path, encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter=delimiter, strict=True)
        header = next(lines, [])
        try:
            for fields in lines:
                missing = len(header) - len(fields)
                if missing < 0:
                    raise csv.Error(f"{len(fields)} fields, the header has {len(header)}")
                if fields:
                    records.append([*fields, *[None] * missing])
        except csv.Error as error:
            raise ValueError(f"line {lines.line_num}: {error}") from None
    return pd.DataFrame(records, columns=header, dtype=object)


def _read_tsv(path: Path) -> pd.DataFrame:
    return _read_csv(path, delimiter="\t")


def _read_json_lines(path: Path) -> pd.DataFrame:
    records = []
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            try:
                records += _json_records(f"[{line}]")
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    return pd.DataFrame(records, dtype=object)


def _read_json(path: Path) -> pd.DataFrame:
    return pd.DataFrame(_json_records(path.read_text(encoding="utf-8-sig")), dtype=object)


def _json_records(text: str) -> list[dict]:
    records = json.loads(text)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError("expected objects, each with the same columns")
    if "\\ud" in text.lower():  # half a character, which no file can hold
        json.dumps(records, ensure_ascii=False).encode("utf-8")
    return records


def _read_parquet(path: Path) -> pd.DataFrame:
    # Integers stay integers beside a missing value: the label 1 is not 1.0.
    table = pd.read_parquet(path, to_pandas_kwargs={"integer_object_nulls": True}).reset_index(drop=True)
    return table.astype(object).where(table.notna(), None)


READERS = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
}


def _hub_table(source: Source | Text, split: str | None, key: str) -> pd.DataFrame:
    import datasets

    name, revision = hub_id(source.location, f"{key}.location")
    say(f"downloading {name} at {revision}")
    try:
        data = datasets.load_dataset(name, source.config, split=split or "train", revision=revision)
    except Exception as error:
        if "Dataset scripts are no longer supported" in str(error):
            raise UserError(f"{key}: {source.location} wants code of its own to be run, which is refused") from error
        raise UserError(_cannot_fetch(source.location, f"{key}.location", error)) from error
    table = data.to_pandas()
    for column, feature in data.features.items():
        if isinstance(feature, datasets.ClassLabel):
            table[column] = [feature.int2str(int(value)) if value >= 0 else None for value in table[column]]
    return table


def texts(source: Text, seed: int, key: str) -> list[str]:
    """Unlabelled texts: of the source's records, in an order that ``seed`` fixes, the first ``limit`` different ones.

    With ``sentences`` each record is cut into sentences, and those of fewer than three words are left out.
    """
    values = (record[source.text] for _, record in records(source, source.split, key))
    documents = [text.strip() for text in values if isinstance(text, str)]
    random.Random(seed).shuffle(documents)
    found: dict[str, None] = {}
    for text in _sentences(documents) if source.sentences else documents:
        if text:
            found.setdefault(text)
        if len(found) == source.limit:
            break
    if not found:
        wanted = f"sentence of {SHORTEST_SENTENCE} words" if source.sentences else "text"
        raise UserError(f"{key}: {source.location}: no {wanted} in column '{source.text}'")
    return list(found)


def _sentences(documents: list[str]) -> Iterator[str]:
    """Sentences by Punkt, trained on the documents themselves: NLTK's trained model would have to be downloaded."""
    from nltk.tokenize.punkt import PunktSentenceTokenizer, PunktTrainer

    documents = [re.sub(r"<br\s*/?>", "\n", document) for document in documents]
    sample, characters = [], 0
    for document in documents:
        sample.append(document)
        characters += len(document)
        if characters > PUNKT_CHARACTERS:
            break
    tokenizer = PunktSentenceTokenizer(PunktTrainer("\n".join(sample)).get_params())
    for document in documents:
        for line in document.splitlines():
            for sentence in tokenizer.tokenize(line):
                if len(sentence.split()) >= SHORTEST_SENTENCE:
                    yield sentence.strip()
