import json
import tracemalloc

import datasets
import pandas as pd
import pytest
from tiny import write_file

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Source, Text
from pipeline.tinybert.data import sources

pytestmark = pytest.mark.usefixtures("files_anywhere")

HUB = f"hub:someone/something@{'0123456789' * 4}"


def records(location, split=None, **more) -> list[tuple[str, dict]]:
    source = Source(location=str(location), **more)
    columns = [source.text or "text", *([source.label] if source.label else [])]
    return list(sources.records(source, split, columns, "tasks.tiny.source"))


# Files.


def test_a_path_is_relative_to_the_working_folder(in_empty_folder):
    write_file(in_empty_folder / "data" / "raw" / "rows.csv", "text\nfilm\n")
    assert [record["text"] for _, record in records("data/raw/rows.csv")] == ["film"]


def test_splits_are_files_in_the_folder(tmp_path):
    write_file(tmp_path / "folder" / "dev.csv", "text,label\ngood film,1\nbad plot,0\nso so,1\n")
    assert len(records(tmp_path / "folder", split="dev.csv")) == 3
    with pytest.raises(UserError, match=r"^tasks.tiny.source: there is no file .*folder/train.csv"):
        records(tmp_path / "folder", split="train.csv")
    with pytest.raises(UserError, match=r"^tasks.tiny.source: .*folder is a folder: name its files under `splits`"):
        records(tmp_path / "folder")


# Datasets of the hub.


def test_a_data_set_download_without_a_network_fails_with_a_one_line_message(offline):
    with pytest.raises(UserError) as raised:
        records(HUB)
    assert str(raised.value).startswith(f"tasks.tiny.source.location: cannot fetch {HUB} (")
    assert "\n" not in str(raised.value)


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
def hub_folder(offline, tmp_path, monkeypatch):
    """A folder that `datasets` reads in place of the hub."""
    folder, load = tmp_path / "hub", datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda name, *rest, **more: load(str(folder), *rest, **more))
    return folder


@pytest.fixture
def hub_layout(hub_folder):
    """A dataset in the layout of the hub."""
    write_file(hub_folder / "README.md", HUB_CARD)
    write_file(hub_folder / "data" / "train.csv", "text,label\ngood film,1\nbad plot,0\nodd,-1\n")
    write_file(hub_folder / "data" / "test.csv", "text,label\ngood plot,1\n")


def test_class_indices_of_a_hub_data_set_become_class_names(hub_layout):
    rows = records(HUB, config="small", label="label")
    assert [(record["text"], record["label"]) for _, record in rows[:2]] == [
        ("good film", "positive"),
        ("bad plot", "negative"),
    ]
    assert pd.isna(rows[2][1]["label"])
    assert rows[0][0] == f"{HUB}, train, row 1"
    for chosen in ({"config": "small", "split": "test"}, {"config": "large"}):
        assert [record["text"] for _, record in records(HUB, **chosen)] == ["good plot"]


def test_a_data_set_with_a_script_is_refused_and_the_script_is_not_run(hub_folder, tmp_path):
    script = f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n"
    write_file(hub_folder / "hub.py", script)
    with pytest.raises(UserError, match="^tasks.tiny.source: hub:.* requires remote code, which is refused$"):
        records(HUB)
    assert not (tmp_path / "executed").exists()


def test_a_local_folder_is_never_read_in_place_of_the_hub(hub_layout, in_empty_folder):
    write_file(in_empty_folder / "someone" / "something" / "train.csv", "text\nlocal film\n")
    with pytest.raises(UserError, match=f"^tasks.tiny.source.location: {HUB}: .* would read the local folder someone/"):
        records(HUB)


def test_integers_beside_a_null_of_the_hub_stay_integers(hub_folder):
    frame = pd.DataFrame({"text": ["a", "b"], "label": pd.array([1, None], dtype="Int64"), "tags": [[1, 0], [1, None]]})
    hub_folder.mkdir()
    frame.to_parquet(hub_folder / "train.parquet")
    assert [(record["label"], record["tags"]) for _, record in records(HUB)] == [(1, [1, 0]), (None, [1, None])]
    assert [record["text"] for _, record in records(HUB, where={"label": 1})] == ["a"]


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
    return write_file(tmp_path / "reviews.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in documents) * 2)


def texts(location, limit=100, seed=1, **more) -> list[str]:
    return sources.texts(Text(location=str(location), limit=limit, **more), seed, "tasks.tiny.unlabelled")


def test_texts_are_distinct_and_not_empty(reviews):
    with open(reviews, "a") as file:
        file.write('{"text": null}\n{"text": 3}\n{}\n')
    result = texts(reviews)
    assert len(result) == 3
    assert {text[:8] for text in result} == {"The film", "Bad film", "Two word"}


def test_texts_come_from_the_named_column_of_the_selected_rows(tmp_path):
    path = write_file(tmp_path / "text.csv", "text,review,from\nno,a good film,here\nno,another film,there\n")
    assert texts(path, text="review", where={"from": "there"}) == ["another film"]


def test_rows_without_text_are_left_out_and_logged(tmp_path, capsys):
    lines = ['{"body": "a film"}', '{"body": "\\t\\u0007\\u200b\\ufeff"}', '{"bdy": "a film"}', '{"body": 7}']
    text = Text(location=str(write_file(tmp_path / "more.jsonl", "\n".join(lines))), text="body", limit=9)
    assert sources.texts(text, 1, "tasks.tiny.unlabelled") == ["a film"]
    assert capsys.readouterr().out == (
        "tasks.tiny.unlabelled: 3 rows without text in column 'body' left out: more.jsonl, line 2; more.jsonl,"
        " line 3; more.jsonl, line 4\n"
    )


def test_sentences_have_at_least_three_words_and_end_at_line_breaks(reviews):
    result = texts(reviews, sentences=True)
    assert len(result) == len(set(result))
    assert {"The film is good.", "A very bad film."} <= set(result)
    assert any(text.startswith("I liked Mr.") for text in result)
    assert all(len(text.split()) >= 3 and text == text.strip() and "<" not in text for text in result)


def test_sentences_of_a_long_line_do_not_depend_on_where_it_is_divided(tmp_path, monkeypatch):
    long = " ".join(f"Is film {number} good? I liked it!" for number in range(200))
    path = write_file(tmp_path / "text.csv", f"text\n{long}\n")
    whole = texts(path, sentences=True, limit=1000)
    monkeypatch.setattr(sources, "LONGEST_PART", 300)
    assert texts(path, sentences=True, limit=1000) == whole
    assert len(whole) == 201


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("这部电影很好看。我们都很喜欢！好。", {"这部电影很好看。", "我们都很喜欢！"}),
        ("यह फ़िल्म अच्छी है। कहानी भी अच्छी है।", {"यह फ़िल्म अच्छी है।", "कहानी भी अच्छी है।"}),
    ],
)
def test_sentences_are_found_in_other_scripts(tmp_path, text, expected):
    assert set(texts(write_file(tmp_path / "text.csv", f"text\n{text}\n"), sentences=True)) == expected


def test_thai_has_no_sentence_marks_and_its_lines_are_kept_whole(tmp_path, capsys):
    thai = "ภาษาไทยไม่มีช่องว่าง ระหว่างคำ"
    assert (
        texts(write_file(tmp_path / "text.csv", f"text\n{thai}\na good film\n"), sentences=True)[0]
        in thai + "a good film"
    )
    assert "1 texts in Thai or Lao, which have no sentence marks: their lines are kept whole" in capsys.readouterr().out


def test_the_seed_determines_the_order_of_texts_and_the_limit_takes_the_first(tmp_path):
    path = write_file(tmp_path / "text.csv", "text\n" + "".join(f"film number {n}\n" for n in range(50)))
    one, again, other = (texts(path, seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    assert sorted(one) == sorted(other) != one
    assert texts(path, limit=7) == one[:7]
    assert texts(path, limit=7, sentences=True) == one[:7]


@pytest.mark.parametrize("take", ["texts", "sample"])
def test_memory_of_unlabelled_rows_grows_with_the_limit_not_with_the_file(tmp_path, take):
    rows = [{"text": f"number {number} " + "is a film " * 30, "pair": "a plot"} for number in range(10_000)]  # 3 MB
    path = write_file(tmp_path / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    text = Text(location=str(path), limit=10)
    sources.texts(text, 1, "tasks.tiny.unlabelled")  # imports what it needs
    tracemalloc.start()
    try:
        if take == "sample":
            found: list = sources.sample(text, ["text", "pair"], 1, "tasks.tiny.unlabelled")
        else:
            found = sources.texts(text, 1, "tasks.tiny.unlabelled")
        assert len(found) == 10
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_source_without_any_text_is_reported(tmp_path):
    invisible = write_file(tmp_path / "invisible.csv", "text\n\u200b\u00ad\n\x07 \x08\n")
    with pytest.raises(UserError, match="^tasks.tiny.unlabelled: .*invisible.csv: no text in column 'text'"):
        texts(invisible)
    path = write_file(tmp_path / "text.jsonl", '{"text": "two words"}\n{"text": null}\n')
    with pytest.raises(
        UserError, match="^tasks.tiny.unlabelled: .*text.jsonl: no sentence of 3 words in column 'text'"
    ):
        texts(path, sentences=True)
