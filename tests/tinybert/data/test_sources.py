import json

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


# Data sets of the hub.


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
def hub_layout(offline, tmp_path):
    """A data set in the layout of the hub, in a folder where `datasets` finds it by its name."""
    folder = tmp_path / "someone" / "something"
    write_file(folder / "README.md", HUB_CARD)
    write_file(
        tmp_path / "someone" / "something" / "data" / "train.csv", "text,label\ngood film,1\nbad plot,0\nodd,-1\n"
    )
    write_file(folder / "data" / "test.csv", "text,label\ngood plot,1\n")
    return folder


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


def test_a_data_set_with_a_script_is_refused_and_the_script_is_not_run(offline, tmp_path):
    script = f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n"
    write_file(tmp_path / "someone" / "something" / "something.py", script)
    with pytest.raises(UserError, match="^tasks.tiny.source: hub:.* requires remote code, which is refused$"):
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
    lines = ['{"body": "a film"}', '{"body": " "}', '{"bdy": "a film"}', '{"body": 7}']
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


def test_a_source_without_any_text_is_reported(tmp_path):
    path = write_file(tmp_path / "text.jsonl", '{"text": "two words"}\n{"text": null}\n')
    with pytest.raises(
        UserError, match="^tasks.tiny.unlabelled: .*text.jsonl: no sentence of 3 words in column 'text'"
    ):
        texts(path, sentences=True)
