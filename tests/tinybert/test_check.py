import json

import pytest
import tiny

from pipeline.tinybert import check
from pipeline.tinybert.settings import Prepare, Source
from pipeline.tinybert.stage import UserError

KEY = "tasks.tiny.source"
PREPARE = Prepare(seed=1, test=0.2, validation=0.1)


def report(folder, task=None, **files: list) -> None:
    for name, records in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    splits = {name: f"{name}.jsonl" for name in files}
    source = Source(location=str(folder), splits=splits)
    check.report(task or tiny.task([], max_length=12), source, PREPARE, tiny.tokenizer(), KEY)


def rows(count: int, seed: int = 0) -> list[dict]:
    return [{"text": text, "label": label} for text, label in tiny.sentences(count, seed)]


def test_rows_labels_duplicates_overlap_and_lengths_are_told(tmp_path, capsys):
    train, test = rows(60), rows(70)[60:]
    report(tmp_path, train=[*train, train[0], test[0]], test=test)
    said = capsys.readouterr().out
    assert "train: 62 rows: negative 30, positive 32" in said
    assert "test: 10 rows: negative 5, positive 5" in said
    assert "train: 1 rows dropped whose text comes before" in said
    assert "train: 1 rows dropped whose text stands in test" in said
    assert "validation as it would be: 6 rows: " in said
    lengths = [len(tiny.tokenizer()(row["text"])["input_ids"]) for row in test]
    assert f"the longest {max(lengths)}; {sum(n > 12 for n in lengths)} of 10 are longer than max_length, 12" in said


def test_bad_rows_of_every_split_are_told(tmp_path, capsys):
    bad = {"text": "", "label": "positive"}
    with pytest.raises(UserError) as raised:
        report(tmp_path, train=[*rows(60), bad], test=[bad, *rows(4)])
    message = str(raised.value)
    assert f"train: {KEY}: train.jsonl, line 61: column 'text': empty text" in message
    assert f"test: {KEY}: test.jsonl, line 1: column 'text': empty text" in message
