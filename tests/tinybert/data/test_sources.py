import json
import os

import datasets
import huggingface_hub
import pandas as pd
import pytest
import tiny
import torch
from transformers import AutoModel

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Source, Text
from pipeline.tinybert.data import sources
from pipeline.tinybert.models import checkpoints

pytestmark = pytest.mark.usefixtures("files_anywhere")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = f"hub:someone/something@{COMMIT}"
ROWS = [("good film", "1"), ("bad plot", "0"), ("so so", "1")]


def records(location, split=None, **more) -> list[tuple[str, dict]]:
    source = Source(location=str(location), **more)
    columns = [source.text or "text", *([source.label] if source.label else [])]
    return list(sources.records(source, split, columns, "tasks.tiny.source"))


def write(path, content: str | bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that cannot be imported."""
    write(tmp_path / "site" / "broken_corpus" / "__init__.py", "raise SystemExit('imported')")
    write(tmp_path / "site" / "broken_corpus" / "data" / "rows.csv", "text,label\ngood film,1\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site" / "broken_corpus"


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No network is tried, nothing outside of the test's folder is read or written."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.chdir(tmp_path)


# Locations.


def test_a_file_of_a_package_is_found_without_importing_it(package):
    assert sources.local_path("package:broken_corpus/data/rows.csv", "key") == package / "data" / "rows.csv"
    assert sources.local_path("package:broken_corpus", "key") == package
    assert records("package:broken_corpus/data/rows.csv") == [("rows.csv, line 2", {"text": "good film", "label": "1"})]


def test_a_path_is_taken_from_the_working_folder(in_empty_folder):
    write(in_empty_folder / "data" / "raw" / "rows.csv", "text\nfilm\n")
    assert [record["text"] for _, record in records("data/raw/rows.csv")] == ["film"]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("nowhere/rows.csv", "there is no file or folder nowhere/rows.csv"),
        ("package:not_installed_at_all/rows.csv", "no package 'not_installed_at_all' is installed: pip install it"),
        ("package:not-a-name/rows.csv", "no package 'not-a-name' is installed"),
        ("package:broken_corpus.data/rows.csv", "no package 'broken_corpus.data' is installed"),  # would import it
        ("package:this/rows.csv", "no package 'this' is installed"),  # a module, not a folder
        ("package:broken_corpus/data/absent.csv", "the installed package 'broken_corpus' has no data/absent.csv"),
    ],
)
def test_a_location_that_is_not_there_is_named_with_its_setting(package, in_empty_folder, location, expected):
    with pytest.raises(UserError) as raised:
        sources.local_path(location, "encoder.checkpoint")
    assert str(raised.value).startswith("encoder.checkpoint: ")
    assert expected in str(raised.value)


@pytest.mark.parametrize(
    "location",
    ["hub:owner/name", "hub:owner/name@", f"hub:@{COMMIT}", "hub:", "hub:owner/name@main", "hub:owner/name@0123abc"],
)
def test_a_hub_id_without_a_whole_commit_is_refused(location):
    with pytest.raises(UserError, match=r"^key: .*expected hub:OWNER/NAME@COMMIT"):
        sources.hub_id(location, "key")


def test_a_hub_id_has_a_name_and_a_commit():
    assert sources.hub_id(f"hub:owner/name@{COMMIT}", "key") == ("owner/name", COMMIT)


# Files of rows.


def csv_of(rows, separator=","):
    return "".join(f"{text}{separator}{label}\n" for text, label in [("text", "label"), *rows])


def json_lines_of(rows):
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)


@pytest.fixture(params=["csv", "tsv", "jsonl", "json", "parquet", "CSV"])
def table(request, tmp_path):
    path = tmp_path / f"rows.{request.param}"
    if request.param == "parquet":
        pd.DataFrame(ROWS, columns=["text", "label"], index=["x", "y", "z"]).to_parquet(path)
        return path
    content = {"tsv": csv_of(ROWS, "\t"), "jsonl": json_lines_of(ROWS)}.get(request.param, csv_of(ROWS))
    if request.param == "json":
        content = json.dumps([{"text": text, "label": label} for text, label in ROWS])
    return write(path, content)


def test_rows_are_read_from_every_kind_of_file(table):
    assert records(table, label="label") == [
        (f"{table.name}, {place(table, number)}", {"text": text, "label": label})
        for number, (text, label) in enumerate(ROWS, 1)
    ]


def place(table, number: int) -> str:
    """Where the record of this number stands: the line in files of lines, after the header."""
    kind = table.suffix.lower()
    return f"row {number}" if kind in (".json", ".parquet") else f"line {number + (kind in ('.csv', '.tsv'))}"


def test_where_chooses_rows_which_keep_their_numbers(table):
    assert [where for where, _ in records(table, where={"label": 1})] == [
        f"{table.name}, {place(table, number)}" for number in (1, 3)
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"text": "review"}, "has no column 'review' (it has: text, label)"),
        ({"label": "stars"}, "has no column 'stars'"),
        ({"where": {"source": "imdb"}}, "has no column 'source'"),
        ({"where": {"label": 7}}, "has no row where {'label': 7}"),
    ],
)
def test_a_column_or_rows_that_are_not_there_are_named(table, settings, expected):
    with pytest.raises(UserError, match="^tasks.tiny.source: rows") as raised:
        records(table, **settings)
    assert expected in str(raised.value)


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["", "BOM"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_csv_may_have_quotes_line_breaks_a_byte_order_mark_and_windows_line_ends(tmp_path, start, end):
    lines = ["text,label", '"He said ""film"", twice",1', f'"two{end}lines",0', "  café 電影 ,NA", "null,"]
    path = write(tmp_path / "rows.csv", start + end.join(lines) + end)
    assert [(record["text"], record["label"]) for _, record in records(path)] == [
        ('He said "film", twice', "1"),
        (f"two{end}lines", "0"),
        ("  café 電影 ", "NA"),
        ("null", ""),
    ]


def test_values_of_json_lines_stay_as_they_stand(tmp_path):
    lines = [
        '{"text": "2020-01-01", "label": 1}',
        "",
        '{"text": "1e5", "label": null}',
        '{"text": 12345678901234567890}',
    ]
    path = write(tmp_path / "rows.jsonl", "\ufeff" + "\r\n".join(lines))
    first, second, third = (record for _, record in records(path))
    assert first == {"text": "2020-01-01", "label": 1}
    assert second == {"text": "1e5", "label": None}
    assert third["text"] == 12345678901234567890


def test_integers_of_a_parquet_file_stay_integers_beside_a_missing_one(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b"], "label": pd.array([1, None], dtype="Int64")})
    frame.to_parquet(tmp_path / "rows.parquet")
    assert [record["label"] for _, record in records(tmp_path / "rows.parquet")] == [1, None]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rows.txt", "text", "expected a file that ends with one of .csv, .tsv, .jsonl, .json, .parquet"),
        ("rows", "text", "expected a file that ends with one of"),
        (
            "rows.jsonl",
            '{"text": "a"}\n{"text": "b"\n',
            "line 2, character 13: not valid JSON: Expecting ',' delimiter",
        ),
        ("rows.jsonl", '{"text": "a"}\n["b"]\n', "line 2: expected objects"),
        ("rows.jsonl", '{"text": "a"}\n{"text": "\\ud800"}\n', "line 2: "),
        ("rows.json", '{"text": "a"}', "cannot be read as json: expected objects"),
        ("rows.json", "5", "cannot be read as json: expected objects"),
        ("rows.csv", "text,label\na,1\nb, c,0\n", "line 3: 3 fields, the header has 2: quote"),
        ("rows.csv", 'text,label\nb,0\n"a,1\nb,0\n', "line 3 to 4: a quote opens in it that does not close"),
        ("rows.csv", 'text,label\n"a" b,1\n', "line 2: a quote opens in it that does not close, or closes within"),
        ("rows.csv", 'text,label\n"a,1\nb "c",0\n', "line 2 to 3: a quote opens in it"),
        ("rows.csv", "text,label\ncafé,1\n".encode("latin-1"), "cannot be read as csv: line 2: not UTF-8 (byte 0xe9)"),
        ("rows.csv", "", "line 1: the file is empty: expected a header"),
        ("rows.conll", "word O\n" * 501, "one sentence of 501 words: an empty line ends a sentence"),
        ("rows.csv", "text,label\n", "has no row"),
        ("rows.parquet", "text", "cannot be read as parquet"),
    ],
)
def test_a_bad_file_is_named_with_its_setting_and_line(tmp_path, name, content, expected):
    with pytest.raises(UserError, match=f"^tasks.tiny.source: .*{name}") as raised:
        records(write(tmp_path / name, content))
    assert expected in str(raised.value)


def of(path, columns, **more) -> list[tuple[str, dict]]:
    return list(sources.records(Source(location=str(path), **more), None, columns, "tasks.tiny.source"))


@pytest.mark.parametrize(("delimiter", "setting"), [("\t", "\t"), ("\t", None), (" ", None), ("   ", None), ("|", "|")])
@pytest.mark.parametrize("name", ["rows.conll", "rows.bio", "rows.iob"])
def test_conll_files_give_a_record_for_each_sentence(tmp_path, delimiter, setting, name):
    lines = ["-DOCSTART-  O", "", "EU NNP B-ORG", "rejects VBZ O", "", "", "Peter NNP B-PER", ""]
    path = write(tmp_path / name, "\r\n".join(lines).replace(" ", delimiter))
    assert of(path, [1, 3], delimiter=setting) == [
        (f"{name}, sentence at line 3", {1: ["EU", "rejects"], 2: ["NNP", "VBZ"], 3: ["B-ORG", "O"]}),
        (f"{name}, sentence at line 7", {1: ["Peter"], 2: ["NNP"], 3: ["B-PER"]}),
    ]


def test_a_conll_line_with_other_columns_is_named(tmp_path):
    path = write(tmp_path / "rows.conll", "EU B-ORG\nrejects\n")
    with pytest.raises(UserError, match=r"line 2: 1 columns, the lines before have 2: 'rejects'"):
        of(path, [1, 2])
    with pytest.raises(UserError, match=r"rows.conll has no column '4' \(it has: 1, 2\)"):
        of(write(tmp_path / "rows.conll", "EU B-ORG\n"), [1, 4])


def squad_file(**question) -> str:
    asked = {"id": "q1", "question": "who?", "answers": [{"text": "Smith", "answer_start": 3}], **question}
    paragraphs = [{"context": "By Smith", "qas": [asked]}]
    return json.dumps({"version": "v2.0", "data": [{"title": "Films", "paragraphs": paragraphs}]})


def test_squad_files_give_a_record_for_each_question(tmp_path):
    answers = [{"text": "Smith", "answer_start": 3}]
    path = write(tmp_path / "squad.json", squad_file())
    assert of(path, ["question"]) == [
        (
            "squad.json, question q1",
            {"id": "q1", "title": "Films", "context": "By Smith", "question": "who?", "answers": answers},
        )
    ]
    write(path, squad_file(is_impossible=True, plausible_answers=answers, answers=[]))
    assert of(path, ["question"])[0][1]["answers"] == []


def test_a_file_that_is_nearly_squad_s_is_named(tmp_path):
    path = write(tmp_path / "squad.json", json.dumps({"data": [{"paragraphs": [{"context": "By Smith"}]}]}))
    with pytest.raises(UserError, match=r"cannot be read as json: article 1 \(None\): not in SQuAD's form .*'qas'"):
        of(path, ["question"])
    write(path, squad_file(is_impossible=True))
    with pytest.raises(UserError, match=r"article 1 \(Films\), question q1: is_impossible, but it has answers"):
        of(path, ["question"])


def test_records_over_several_lines_are_counted_and_the_longest_named(tmp_path, capsys):
    """A quote that is left open takes in the rows to the next one."""
    rows = [f"a film,{number % 2}" for number in range(20)]
    rows[4], rows[9] = '"a film,0', 'a film",1'
    assert len(records(write(tmp_path / "rows.csv", "\n".join(["text,label", '"two\nlines",1', *rows])))) == 16
    assert capsys.readouterr().out == (
        "rows.csv: 2 of 16 records go over several lines, the longest from line 8 to 13: if it should not, a quote is"
        " left open there\n"
    )


@pytest.mark.parametrize(("name", "delimiter"), [("rows.csv", ","), ("rows.tsv", "\t")])
def test_without_quotes_they_belong_to_the_text(tmp_path, capsys, name, delimiter):
    path = write(tmp_path / name, f'text{delimiter}label\n"a" film{delimiter}1\n"a plot{delimiter}0\n')
    found = of(path, ["text"], quotes=False)
    assert [record["text"] for _, record in found] == ['"a" film', '"a plot']
    assert capsys.readouterr().out == ""


def test_a_field_of_a_million_characters_is_read_whole(tmp_path):
    path = write(tmp_path / "rows.csv", 'text,label\n"' + "film " * 200_000 + '",1\n')
    assert len(records(path)[0][1]["text"]) == 1_000_000


def test_a_column_that_stands_twice_is_named(tmp_path):
    with pytest.raises(UserError, match="the column 'text' stands twice in the header"):
        records(write(tmp_path / "rows.csv", "text,label,text\na,1,b\n"))


def test_splits_are_files_of_the_folder(tmp_path):
    write(tmp_path / "folder" / "dev.csv", csv_of(ROWS))
    assert len(records(tmp_path / "folder", split="dev.csv")) == 3
    with pytest.raises(UserError, match=r"^tasks.tiny.source: there is no file .*folder/train.csv"):
        records(tmp_path / "folder", split="train.csv")
    with pytest.raises(UserError, match=r"^tasks.tiny.source: .*folder is a folder: name its files under `splits`"):
        records(tmp_path / "folder")


# Checkpoints.


def test_a_checkpoint_folder_is_given_back(in_empty_folder):
    tiny.write_checkpoint(in_empty_folder / "checkpoint", layers=1)
    assert str(sources.checkpoint_folder("checkpoint", "encoder.checkpoint")) == "checkpoint"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, "has no config.json"),
        ("{", "config.json is not valid JSON"),
        ('{"model_type": "bert", "auto_map": {"AutoModel": "code.Model"}}', "wants code of its own .* refused"),
    ],
)
def test_a_checkpoint_that_is_none_or_wants_remote_code_is_refused(in_empty_folder, config, expected):
    (in_empty_folder / "checkpoint").mkdir()
    if config is not None:
        write(in_empty_folder / "checkpoint" / "config.json", config)
    with pytest.raises(UserError, match=f"^encoder.checkpoint: checkpoint.*{expected}"):
        sources.checkpoint_folder("checkpoint", "encoder.checkpoint")


class Malice:
    """Unpickled by anything but a weights-only reader, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path):
    folder = tmp_path / "checkpoint"
    tiny.write_checkpoint(folder, layers=1)
    (folder / "model.safetensors").unlink()
    torch.save({"bert.pooler.dense.weight": Malice(tmp_path / "executed")}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="^encoder.checkpoint: .*checkpoint cannot be loaded: "):
        checkpoints.load(AutoModel, folder, "encoder.checkpoint")
    assert not (tmp_path / "executed").exists()


def test_pickled_weights_alone_are_loaded(tmp_path):
    folder = tmp_path / "checkpoint"
    tiny.write_checkpoint(folder, layers=1)
    weights = checkpoints.load(AutoModel, folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    loaded = checkpoints.load(AutoModel, folder).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


# The hub, without a network.


def test_without_a_network_a_checkpoint_of_the_hub_gives_one_clear_line(offline):
    with pytest.raises(UserError) as raised:
        sources.checkpoint_folder(HUB, "encoder.checkpoint")
    assert str(raised.value).startswith(f"encoder.checkpoint: cannot fetch {HUB} (")
    assert "check the name, the revision and the network" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_a_network_a_data_set_of_the_hub_gives_one_clear_line(offline):
    with pytest.raises(UserError) as raised:
        records(HUB)
    assert str(raised.value).startswith(f"tasks.tiny.source.location: cannot fetch {HUB} (")
    assert "\n" not in str(raised.value)


def test_of_a_long_error_the_first_line_is_told(monkeypatch):
    def fail(*rest, **more):
        raise OSError("the first line\nand more of them")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"\(OSError: the first line\): check the name") as raised:
        sources.checkpoint_folder(HUB, "encoder.checkpoint")
    assert "\n" not in str(raised.value)


def test_only_what_a_model_needs_is_downloaded_at_the_pinned_revision(in_empty_folder, monkeypatch):
    tiny.write_checkpoint(in_empty_folder / "checkpoint", layers=1)
    asked = []

    def download(name, revision, allow_patterns):
        asked.append((name, revision, *allow_patterns))
        return str(in_empty_folder / "checkpoint")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert sources.checkpoint_folder(HUB, "key") == in_empty_folder / "checkpoint"
    assert asked == [("someone/something", COMMIT, "*.json", "*.txt", "*.safetensors")]
    (in_empty_folder / "checkpoint" / "model.safetensors").unlink()
    sources.checkpoint_folder(HUB, "key")
    assert asked[2:] == [("someone/something", COMMIT, "pytorch_model.bin")]


HUB_CARD = """---
configs:
- config_name: large
  data_files: data/test.csv
- config_name: small
  data_files:
  - {split: train, path: data/train.csv}
  - {split: test, path: data/test.csv}
dataset_info:
- config_name: small
  features:
  - {name: text, dtype: string}
  - name: label
    dtype: {class_label: {names: {"0": negative, "1": positive}}}
---
"""


@pytest.fixture
def hub_layout(offline, tmp_path):
    """A data set as the hub has it, in a folder where the library finds it by its name."""
    write(tmp_path / "someone" / "something" / "README.md", HUB_CARD)
    write(tmp_path / "someone" / "something" / "data" / "train.csv", "text,label\ngood film,1\nbad plot,0\nodd,-1\n")
    write(tmp_path / "someone" / "something" / "data" / "test.csv", "text,label\ngood plot,1\n")
    return tmp_path / "someone" / "something"


def test_a_data_set_of_the_hub_gives_rows_with_the_names_of_its_labels(hub_layout):
    rows = records(HUB, config="small", label="label")
    assert [(record["text"], record["label"]) for _, record in rows[:2]] == [
        ("good film", "positive"),
        ("bad plot", "negative"),
    ]
    assert pd.isna(rows[2][1]["label"])
    assert rows[0][0] == f"{HUB}, train, row 1"
    for chosen in ({"config": "small", "split": "test"}, {"config": "large"}):
        assert [record["text"] for _, record in records(HUB, **chosen)] == ["good plot"]


def test_a_data_set_with_a_script_is_refused_and_the_script_not_run(offline, tmp_path):
    script = f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n"
    write(tmp_path / "someone" / "something" / "something.py", script)
    with pytest.raises(
        UserError, match="^tasks.tiny.source: hub:.* wants code of its own to be run, which is refused$"
    ):
        records(HUB)
    assert not (tmp_path / "executed").exists()


# Unlabelled text.


@pytest.fixture
def reviews(tmp_path):
    documents = [
        "The film is good. The plot is weak, e.g. at the end.<br /><br />  I liked Mr. Smith a lot! Why?",
        "Bad film.<br>A very bad film. The film is good.",
        "",
        "   ",
        "Two words",
    ]
    return write(tmp_path / "reviews.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in documents) * 2)


def texts(location, limit=100, seed=1, **more) -> list[str]:
    return sources.texts(Text(location=str(location), limit=limit, **more), seed, "tasks.tiny.unlabelled")


def test_whole_records_are_taken_once_each_without_empty_ones(reviews):
    with open(reviews, "a") as file:
        file.write('{"text": null}\n{"text": 3}\n{}\n')
    found = texts(reviews)
    assert len(found) == 3
    assert {text[:8] for text in found} == {"The film", "Bad film", "Two word"}


def test_texts_are_taken_from_the_named_column_of_the_chosen_rows(tmp_path):
    path = write(tmp_path / "text.csv", "text,review,from\nno,a good film,here\nno,another film,there\n")
    assert texts(path, text="review", where={"from": "there"}) == ["another film"]


def test_rows_without_a_text_are_left_out_counted_and_named(tmp_path, capsys):
    lines = ['{"body": "a film"}', '{"body": " "}', '{"bdy": "a film"}', '{"body": 7}']
    text = Text(location=str(write(tmp_path / "more.jsonl", "\n".join(lines))), text="body", limit=9)
    assert sources.texts(text, 1, "tasks.tiny.unlabelled") == ["a film"]
    assert capsys.readouterr().out == (
        "tasks.tiny.unlabelled: 3 rows left out, which have no text in column 'body': more.jsonl, line 2; more.jsonl,"
        " line 3; more.jsonl, line 4\n"
    )


def test_sentences_have_three_words_or_more_and_end_at_line_breaks(reviews):
    found = texts(reviews, sentences=True)
    assert len(found) == len(set(found))
    assert {"The film is good.", "A very bad film."} <= set(found)
    assert any(text.startswith("I liked Mr.") for text in found)
    assert all(len(text.split()) >= 3 and text == text.strip() and "<" not in text for text in found)


def test_the_order_of_texts_is_fixed_by_the_seed_and_the_limit_takes_the_first(tmp_path):
    path = write(tmp_path / "text.csv", "text\n" + "".join(f"film number {n}\n" for n in range(50)))
    one, again, other = (texts(path, seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    assert sorted(one) == sorted(other) != one
    assert texts(path, limit=7) == one[:7]
    assert texts(path, limit=7, sentences=True) == one[:7]


def test_a_source_without_a_text_is_named(tmp_path):
    path = write(tmp_path / "text.jsonl", '{"text": "two words"}\n{"text": null}\n')
    with pytest.raises(
        UserError, match="^tasks.tiny.unlabelled: .*text.jsonl: no sentence of 3 words in column 'text'"
    ):
        texts(path, sentences=True)
