"""Installed packages, the hub and files, by one grammar of locations.

``package:NAME/PATH``         a file or folder that an installed package ships
``hub:OWNER/NAME@COMMIT``     a model or data set of the Hugging Face hub, pinned: a branch would move
``gensim:NAME``               word vectors of gensim's downloads
anything else                 a path, from the top of the repository

A path has to lie in the folder on which its stage depends in dvc.yaml: ``data/raw/<task>`` if a task's entry names it,
``data/raw/<group>`` if a group does. Otherwise DVC would not see the file change.

Nothing that is fetched is executed: no package is imported, no remote code is allowed.
"""

import csv
import hashlib
import importlib.util
import io
import json
import os
import random
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import huggingface_hub
import pandas as pd

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import first_ten, log
from pipeline.tinybert.core.settings import Column, Table, Text

RAW = Path("data/raw")
CACHE = ("files", "md5")  # .dvc/cache/files/md5/12/3456…
PUNKT_CHARACTERS = 1_000_000
SHORTEST_SENTENCE = 3  # words
LONGEST_SENTENCE = 500  # words, if it is the only one of a file
COMMIT = re.compile(r"[0-9a-f]{40}")

huggingface_hub.logging.set_verbosity_error()  # it warns of each of its retries


def raw_folder(key: str) -> Path:
    """The folder for the user's own files that a setting may name: data/raw/<task> or data/raw/<group>."""
    group, *rest = key.split(".")
    return RAW / (rest[0] if group == "tasks" else group)


def own_teacher_folder(task: str) -> Path:
    """Where the user's own fine-tuned teacher of a task has to lie, or below it: data/raw/<task>/teacher."""
    return RAW / task / "teacher"


def local_path(location: str, key: str, folder: Path | None = None) -> Path:
    """The file or folder on this machine that a ``package:`` location or a path names.

    ``key`` is the setting that holds the location. A path has to lie in ``folder``, ``raw_folder(key)`` by default.
    Raises UserError if the file or folder does not exist or lies elsewhere.
    """
    if not location.startswith("package:"):
        path = Path(location)
        if not path.exists():
            raise UserError(f"{key}: there is no file or folder {location}")
        check_place(path, folder or raw_folder(key), key)
        return path
    name, _, inner = location.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{key}: no package '{name}' is installed: pip install it (requirements.txt), or change {key}")
    path = Path(next(iter(spec.submodule_search_locations))) / inner
    if not path.exists():
        raise UserError(f"{key}: the installed package '{name}' has no {inner}")
    return path


def check_task_folder(task: str) -> None:
    """Raise UserError if data/raw/<task>, a dependency of `prepare` whatever the source is, does not exist."""
    folder = RAW / task
    if not folder.is_dir():
        raise UserError(
            f"{folder}: there is no such folder, and DVC fails without it: `mkdir -p {folder}`, then put the task's"
            " files there, or a README.md that says where its rows come from"
        )


def check_place(path: Path, folder: Path, key: str, value: str | None = None) -> None:
    """Raise UserError if ``path``, or a link below it, leads out of ``folder``, the one that the stage depends on.

    DVC does not look into a folder behind a symbolic link. Links into DVC's cache are its own (``cache.type symlink``).
    ``value`` is what the setting becomes when the file has moved into the folder, for the message.
    """
    top = Path.cwd().resolve()

    def outside(entry: Path) -> bool:
        target = entry.resolve()
        return not target.is_relative_to(top / folder) and target.parts[-4:-2] != CACHE

    if outside(path) and not Path(os.path.abspath(path)).is_relative_to(top / folder):
        raise UserError(_elsewhere(path, folder, key, value or str(folder / path.name)))
    for entry in (path, *path.rglob("*")):
        if outside(entry):
            link = next(part for part in (*reversed(entry.parents), entry) if part.is_symlink())
            raise UserError(
                f"{key}: {link} is a link to {link.resolve()}: DVC would not see a file change there. Replace the link"
                f" by a copy: `{_command('rm', link)} && {_command('cp', '-r', link.resolve(), link)}`"
            )


def _elsewhere(path: Path, folder: Path, key: str, value: str) -> str:
    why = f"{key}: {path} is not in {folder}, on which the stage depends: DVC would not see the file change."
    if (Path.cwd() / folder).is_relative_to(path.resolve()):
        return f"{why} Run `mkdir -p {folder}`, move its files there, then set {key}: {folder}"
    move = ["mv"] if path.parent == RAW else ["cp", "-rL"]  # another task may read what lies in a folder of its own
    return f"{why} Run `mkdir -p {folder} && {_command(*move, path, f'{folder}/')}`, then set {key}: {value}"


def _command(*words: str | Path) -> str:
    return shlex.join(map(str, words))


def file_hashes(folder: Path) -> dict[str, str]:
    """Path below ``folder`` → SHA-256 of each file; empty if there is no such folder."""
    hashes = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def hub_id(location: str, key: str) -> tuple[str, str]:
    """``hub:OWNER/NAME@COMMIT`` as (OWNER/NAME, COMMIT)."""
    name, _, commit = location.removeprefix("hub:").partition("@")
    if not name or not COMMIT.fullmatch(commit):
        raise UserError(
            f"{key}: {location}: expected hub:OWNER/NAME@COMMIT, the 40 hexadecimal digits of a commit of the"
            " repository (its page lists them under Files, History): a branch or a tag would move"
        )
    return name, commit


def checkpoint_folder(location: str, key: str, within: Path | None = None) -> Path:
    """The folder of a model: config.json, weights, tokenizer. Downloads it where it is on the hub.

    ``within`` is the folder in which a path has to lie, ``raw_folder(key)`` by default. Refuses a folder whose config
    asks for code of its own (``auto_map``).
    """
    folder = _download_model(location, key) if location.startswith("hub:") else local_path(location, key, within)
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
    log(f"downloading {name} at {revision}")
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


def records(source: Table, split: str | None, columns: list[Column], key: str) -> Iterator[tuple[str, dict]]:
    """Yield (where it stands, column → value) of each record of a source that meets ``where``.

    ``split`` names a split of a hub data set, or a file in the folder that the location names. ``columns`` are those
    that it must have.
    """
    wanted = {column: str(value) for column, value in source.where.items()}
    if source.location.startswith("hub:"):
        table, name = _hub_table(source, split, key), f"{source.location}, {split or 'train'}"
    else:
        path = local_path(source.location, f"{key}.location")
        if split:
            path = path / split
            if not source.location.startswith("package:"):
                check_place(path, raw_folder(key), f"{key}.splits", path.name)
        table, name = read_file(path, source, key), path.name
    for column in (*columns, *wanted):
        if column not in table.columns:
            raise UserError(f"{key}: {name} has no column '{column}' (it has: {', '.join(map(str, table.columns))})")
    keep = pd.Series(True, index=table.index)
    for column, value in wanted.items():
        keep &= table[column].astype(str) == value
    unit, table = table.index.name, table[keep]
    if table.empty:
        raise UserError(f"{key}: {name} has no row" + (f" where {source.where}" if wanted else ""))
    names = list(table.columns)
    for place, *values in table.itertuples(name=None):
        yield f"{name}, {unit} {place}", dict(zip(names, values, strict=True))


def read_file(path: Path, source: Table, key: str) -> pd.DataFrame:
    """The records of a file, with their values as they are in it: no type is guessed, and no number is converted.

    The index holds the position of each record, and its name the unit: a line, a row, a question.
    """
    read = READERS.get(path.suffix.lower())
    if path.is_dir():
        raise UserError(f"{key}: {path} is a folder: name its files under `splits` (train: …) or `split`")
    if read is None:
        raise UserError(f"{key}: {path}: expected a file that ends with one of {', '.join(READERS)}")
    if not path.is_file():
        raise UserError(f"{key}: there is no file {path}")
    try:
        return read(path, source)
    except (ValueError, OSError, csv.Error) as error:
        raise UserError(f"{key}: {path} cannot be read as {path.suffix[1:]}: {error}") from error


def _text_of(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line}: not UTF-8 (byte {error.object[error.start]:#04x}): save the file as UTF-8"
        ) from None


def _table(records: list, columns: list | None, places: list, unit: str) -> pd.DataFrame:
    return pd.DataFrame(records, columns=columns, index=pd.Index(places, name=unit), dtype=object)


def _read_csv(path: Path, source: Table, delimiter: str = ",") -> pd.DataFrame:
    csv.field_size_limit(1 << 30)
    records, places, before = [], [], 0
    lines = csv.reader(
        io.StringIO(_text_of(path), newline=""),
        delimiter=source.delimiter or delimiter,
        quoting=csv.QUOTE_MINIMAL if source.quotes else csv.QUOTE_NONE,
        strict=True,
    )
    try:
        header = next(lines, [])
        if not header:
            raise csv.Error("the file is empty: expected a header that names the columns")
        repeated = [name for name, count in Counter(header).items() if count > 1]
        if repeated:
            raise csv.Error(f"the column '{repeated[0]}' stands twice in the header")
        before = lines.line_num
        for fields in lines:
            missing = len(header) - len(fields)
            if missing < 0:
                raise csv.Error(f"{len(fields)} fields, the header has {len(header)}: quote a field that holds commas")
            if fields:
                records.append([*fields, *[None] * missing])
                places.append(before + 1)
            before = lines.line_num
    except csv.Error as error:
        first, last, reason = before + 1, lines.line_num, str(error)
        if reason.startswith(("unexpected end", repr(lines.dialect.delimiter))):  # as csv says it
            reason = (
                "a quote opens in it that does not close, or closes within a field: double a quote that belongs to the"
                " text, or set `quotes: false` where none has another meaning"
            )
        raise ValueError(f"line {first}{f' to {last}' if last > first else ''}: {reason}") from None
    _say_long_records(path, [*places, before + 1])
    return _table(records, header, places, "line")


def _say_long_records(path: Path, starts: list[int]) -> None:
    """A quote that is not closed takes in all lines to the next one: nothing but its length tells it from a text."""
    lengths = [end - start for start, end in pairwise(starts)]
    several = sum(length > 1 for length in lengths)
    if several:
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        log(
            f"{path.name}: {several} of {len(lengths)} records go over several lines, the longest from line"
            f" {starts[longest]} to {starts[longest + 1] - 1}: if it should not, a quote is left open there"
        )


def _read_tsv(path: Path, source: Table) -> pd.DataFrame:
    return _read_csv(path, source, "\t")


def _read_json_lines(path: Path, _source: Table) -> pd.DataFrame:
    records, places = [], []
    for number, line in enumerate(_text_of(path).split("\n"), 1):
        if line.strip():
            try:
                found = _json_records(f"[{line}]")
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}, character {error.pos}: not valid JSON: {error.msg}") from None
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            records += found
            places += [number] * len(found)
    return _table(records, None, places, "line")


def _read_json(path: Path, _source: Table) -> pd.DataFrame:
    text = _text_of(path)
    content = json.loads(text)
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        records = list(_squad_questions(content["data"]))
        _check_characters(text, records)
        return _table(records, None, [record["id"] for record in records], "question")
    records = _json_records(text)
    return _table(records, None, list(range(1, len(records) + 1)), "row")


def _squad_questions(articles: list[dict]) -> Iterator[dict]:
    """The questions of SQuAD's file, each with its passage; 1.1 and 2.0 have the same form."""
    place = ""
    try:
        for number, article in enumerate(articles, 1):
            place = f"article {number}"
            for paragraph in article["paragraphs"]:
                place = f"article {number} ({article.get('title')})"
                for question in paragraph["qas"]:
                    place = f"article {number} ({article.get('title')}), question {question.get('id')}"
                    if question.get("is_impossible") and question.get("answers"):
                        raise ValueError(f"{place}: is_impossible, but it has answers: take one of them out")
                    yield {
                        "id": question["id"],
                        "title": article.get("title"),
                        "context": paragraph["context"],
                        "question": question["question"],
                        "answers": [] if question.get("is_impossible") else question.get("answers", []),
                    }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{place}: not in SQuAD's form (data, paragraphs, context, qas, id, question, answers): {error}"
        ) from None


def _json_records(text: str) -> list[dict]:
    records = json.loads(text)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError("expected objects, each with the same columns")
    _check_characters(text, records)
    return records


def _check_characters(text: str, records: list[dict]) -> None:
    if "\\ud" in text.lower():  # half a character, which no file can hold
        json.dumps(records, ensure_ascii=False).encode("utf-8")


def _read_conll(path: Path, source: Table) -> pd.DataFrame:
    """One word a line, columns numbered from 1, an empty line after each sentence: one record a sentence, lists of the
    same length in its columns. Without a delimiter columns are parted by white space.
    """
    sentences, places, width = [], [], None
    sentence: list[list[str]] = []
    for number, line in enumerate([*_text_of(path).splitlines(), ""], 1):
        if not line.strip():
            if sentence:
                sentences.append([list(column) for column in zip(*sentence, strict=True)])
                places.append(number - len(sentence))
            sentence = []
        elif not line.startswith("-DOCSTART-"):
            fields = line.split(source.delimiter)
            width = width or len(fields)
            if len(fields) != width:
                raise ValueError(f"line {number}: {len(fields)} columns, the lines before have {width}: '{line[:50]}'")
            sentence.append(fields)
    if len(sentences) == 1 and len(sentences[0][0]) > LONGEST_SENTENCE:
        raise ValueError(f"one sentence of {len(sentences[0][0])} words: an empty line ends a sentence")
    return _table(sentences, list(range(1, (width or 0) + 1)), places, "sentence at line")


def _read_parquet(path: Path, _source: Table) -> pd.DataFrame:
    # Integers stay integers beside a missing value: the label 1 is not 1.0.
    table = pd.read_parquet(path, to_pandas_kwargs={"integer_object_nulls": True}).reset_index(drop=True)
    table = table.astype(object).where(table.notna(), None)
    return table.set_index(pd.Index(range(1, len(table) + 1), name="row"))


READERS = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".conll": _read_conll,
    ".bio": _read_conll,
    ".iob": _read_conll,
}


def _hub_table(source: Table, split: str | None, key: str) -> pd.DataFrame:
    import datasets

    name, revision = hub_id(source.location, f"{key}.location")
    log(f"downloading {name} at {revision}")
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
        elif isinstance(getattr(feature, "feature", None), datasets.ClassLabel):
            table[column] = [[feature.feature.int2str(int(value)) for value in values] for values in table[column]]
    return table.set_index(pd.Index(range(1, len(table) + 1), name="row"))


def texts(source: Text, seed: int, key: str) -> list[str]:
    """Unlabelled texts: of the source's records, in an order that ``seed`` fixes, the first ``limit`` different ones.

    With ``sentences`` each record is cut into sentences, and those of fewer than three words are left out.
    """
    column = source.text or "text"
    documents, left_out = [], []
    for where, record in records(source, source.split, [column], key):
        if isinstance(record[column], str) and record[column].strip():
            documents.append(record[column].strip())
        else:
            left_out.append(where)
    if left_out:
        log(f"{key}: {len(left_out)} rows left out, which have no text in column '{column}': {first_ten(left_out)}")
    random.Random(seed).shuffle(documents)
    found: dict[str, None] = {}
    for text in _sentences(documents) if source.sentences else documents:
        found.setdefault(text)
        if len(found) == source.limit:
            break
    if not found:
        wanted = f"sentence of {SHORTEST_SENTENCE} words" if source.sentences else "text"
        raise UserError(f"{key}: {source.location}: no {wanted} in column '{column}'")
    return list(found)


def sample(source: Text, columns: list[Column], seed: int, key: str) -> list[tuple[str, dict]]:
    """``limit`` records of several columns, in an order that ``seed`` fixes."""
    found = list(records(source, source.split, columns, key))
    random.Random(seed).shuffle(found)
    return found[: source.limit]


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
