import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from scipy.special import expit, softmax

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.models.known_logits import KnownLogits
from pipeline.tinybert.training import predictions

TASK = tiny.task(["negative", "positive"])


@pytest.fixture
def read(in_empty_folder, files_anywhere):
    """``read(rows, task, name)``: what is known from a file with these rows (dicts, or its text)."""

    def make(rows, task=TASK, name: str = "teacher.jsonl") -> KnownLogits:
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        Path(name).write_text(text, encoding="utf-8")
        return predictions.read(task, name, Path())

    return make


def test_probabilities_are_found_by_id_or_by_text_and_variants_by_text_alone(read):
    known = read(
        [
            {"id": "train-0", "negative": 0.2, "positive": 0.8},
            {"text": "a good film", "probabilities": {"positive": 0.9, "negative": 0.1}},
            {"text": "a bad film", "negative": 1, "positive": 0},
        ]
    )
    rows = [{"id": "train-0", "text": "x"}, {"text": "a good film", "id": "7"}, {"text": "a bad film", "id": "8"}]
    found = [softmax(logits[0]) for logits in known.of_all(rows)]
    np.testing.assert_allclose(found, [[0.2, 0.8], [0.1, 0.9], [1, 0]], atol=1e-5)
    assert known.of({"id": "train-0", "text": "y", "variant": 1}) is None
    assert known.of_all([*rows, {"id": "train-1", "text": "z"}]) is None


def test_what_is_saved_is_loaded(read, tmp_path):
    known = read([{"id": "train-0", "negative": 0.2, "positive": 0.8}])
    known.save(tmp_path)
    np.testing.assert_array_equal(
        KnownLogits.load(TASK, tmp_path).of({"id": "train-0", "text": ""}), known.of({"id": "train-0", "text": ""})
    )
    assert KnownLogits.load(TASK, tmp_path / "elsewhere") is None


def test_a_csv_file_is_read(read):
    known = read("text,negative,positive\na good film,0.25,0.75\n", name="teacher.csv")
    np.testing.assert_allclose(softmax(known.of({"text": "a good film"})), [0.25, 0.75], atol=1e-6)


def test_each_label_of_several_has_its_own_probability_and_a_number_is_taken_as_it_is(read):
    labels = tiny.task(["long", "sad"], "micro_f1", kind="multi_label")
    known = read([{"id": "train-0", "long": 0.9, "sad": 0.8}], labels)
    np.testing.assert_allclose(expit(known.of({"id": "train-0", "text": ""})), [0.9, 0.8])
    number = tiny.task(["score"], "pearson", kind="regression")
    assert read([{"id": "train-0", "score": 4.5}], number).of({"id": "train-0", "text": ""}).tolist() == [4.5]


ROW = {"id": "train-0", "negative": 0.2, "positive": 0.8}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, {**ROW, "id": "train-1", "positive": 0.7}], "line 2: the probabilities sum to 0.9, expected 1"),
        ([{**ROW, "negative": -0.1, "positive": 1.1}], "line 1: a probability is not between 0 and 1"),
        ([{**ROW, "positive": "high"}], "line 1: 'positive': expected a number, found 'high'"),
        ([{"id": "train-0", "negative": 1}], "line 1: no number for 'positive': expected one for each of neg"),
        (
            [{"id": "a", "probabilities": {"negative": 0.5, "positive": 0.5, "mixed": 0}}],
            "line 1: 'mixed' is no class of the task: expected negative, positive",
        ),
        ([ROW, {**ROW, "negative": 0.4, "positive": 0.6}], "line 2: the same row as line 1, but other numbers"),
        ([{"negative": 0.2, "positive": 0.8}], "line 1: no 'id' and no 'text': expected one of them"),
        ("", "teacher.jsonl has no rows"),
    ],
)
def test_a_file_that_cannot_be_a_teacher_s_is_refused_by_line(read, rows, message):
    with pytest.raises(UserError, match=f"^finetune_teacher.predictions: (teacher.jsonl, )?{message}"):
        read(rows)


def test_a_rounded_sum_and_the_same_row_twice_are_taken(read):
    assert len(read([{**ROW, "negative": 0.199}, {**ROW, "negative": 0.199}]).by_key) == 1


def test_a_kind_with_several_predictions_for_a_row_has_no_file(read):
    with pytest.raises(UserError, match="only tasks with one prediction for a text may have a file"):
        read([ROW], tiny.task([], "f1", kind="question_answering"))
