"""The stage ``augment``."""

import csv

import pytest
from tiny import run_stage

from pipeline.tinybert.data import rows


def write_rows(texts: list[str]) -> None:
    with open("data/raw/tiny/rows.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *([text, "ab"[n % 2]] for n, text in enumerate(texts))])


@pytest.mark.parametrize(
    ("text", "few"), [("这部电影很好看", True), ("3D 4K", True), ("the film is good and the plot is lovely", False)]
)
def test_few_words_that_could_be_replaced_are_said_with_advice(world, capsys, text, few):
    write_rows([f"{text} {number}" for number in range(40)])
    run_stage("prepare")
    run_stage("augment")
    assert ("few words could be replaced: bring word vectors of the texts' language" in capsys.readouterr().out) == few
    originals = [row["text"] for row in rows.read("data/tiny/augmented/rows.jsonl") if not row["variant"]]
    assert originals == [row["text"] for row in rows.read("data/tiny/prepared/train.jsonl")]
