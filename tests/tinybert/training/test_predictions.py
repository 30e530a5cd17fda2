import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from scipy.special import expit, softmax

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.models.known_logits import KnownLogits
from pipeline.tinybert.training import predictions

TASK = tiny.task(["negative", "positive"])
PARTS = {
    "train": [{"id": "train-0", "text": "a good film"}, {"id": "train-1", "text": "a bad film"}],
    "validation": [{"id": "train-2", "text": "so so"}],
    "test": [{"id": "test-0", "text": "again"}, {"id": "test-1", "text": "again"}],
    "unlabelled": [{"id": "unlabelled-0", "text": "a film"}],
}
GOOD, BAD = PARTS["train"]
ROW = {"id": "train-0", "negative": 0.2, "positive": 0.8}
OTHER = {"negative": 0.4, "positive": 0.6}


@pytest.fixture
def read(in_empty_folder, files_anywhere):
    """``read(rows, task, name, parts)``: what is known from a file with these rows (dicts, or its text)."""

    def make(rows, task=TASK, name: str = "teacher.jsonl", parts=PARTS) -> KnownLogits:
        if name.endswith(".parquet"):
            pd.DataFrame(rows).to_parquet(name)
        else:
            text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
            Path(name).write_text(text, encoding="utf-8")
        return predictions.read(task, name, Path(), parts)

    return make


def test_probabilities_are_given_by_id_or_by_text_and_found_by_text(read):
    known = read(
        [
            ROW,
            {"text": "a bad film", "probabilities": {"positive": 0.9, "negative": 0.1}},
            {"text": "a film", "negative": 1, "positive": 0},
        ]
    )
    rows = [GOOD, {"text": "a bad film", "id": "7"}, {"text": "a film", "id": "8", "variant": 1}]
    found = [softmax(logits[0]) for logits in known.of_all(rows)]
    np.testing.assert_allclose(found, [[0.2, 0.8], [0.1, 0.9], [1, 0]], atol=1e-5)
    assert known.of({"id": "train-0", "text": "another text has this id now"}) is None
    assert known.of_all([*rows, {"id": "train-1", "text": "z"}]) is None


def test_what_is_saved_is_loaded(read, tmp_path):
    known = read([ROW])
    known.save(tmp_path)
    np.testing.assert_array_equal(KnownLogits.load(TASK, tmp_path).of(GOOD), known.of(GOOD))
    assert KnownLogits.load(TASK, tmp_path / "elsewhere") is None


def test_a_csv_file_is_read(read):
    known = read("text,negative,positive\na good film,0.25,0.75\n", name="teacher.csv")
    np.testing.assert_allclose(softmax(known.of(GOOD)), [0.25, 0.75], atol=1e-6)
    text = """id,probabilities\ntrain-0,"{""negative"": 0.25, ""positive"": 0.75}"\n"""
    np.testing.assert_allclose(softmax(read(text, name="teacher.csv").of(GOOD)), [0.25, 0.75], atol=1e-6)


def test_a_parquet_file_is_read(read):
    """Its columns hold a value or None in every row, and its objects have the same classes in every row."""
    numbers = [{"id": "train-0", "text": None, **OTHER}, {"id": None, "text": "a bad film", **OTHER}]
    objects = [
        {"id": "train-0", "probabilities": {**OTHER, "mixed": None}},
        {"id": "train-1", "probabilities": {**OTHER, "mixed": None}},
    ]
    for rows in (numbers, objects):
        found = read(rows, name="teacher.parquet").of_all([GOOD, BAD])
        np.testing.assert_allclose(softmax(np.concatenate(found), axis=-1), [[0.4, 0.6]] * 2, atol=1e-6)
    labels = tiny.task(["long", "sad"], "micro_f1", kind="multi_label")
    known = read([{"id": "train-0", "label": ["sad"]}, {"id": "train-1", "label": []}], labels, "teacher.parquet")
    assert labels.predictions(known.of_all([GOOD, BAD]), None, []) == [["sad"], []]


def test_each_label_of_several_has_its_own_probability_and_a_number_is_taken_as_it_is(read):
    labels = tiny.task(["long", "sad"], "micro_f1", kind="multi_label")
    known = read([{"id": "train-0", "long": 0.9, "sad": 0.8}], labels)
    np.testing.assert_allclose(expit(known.of(GOOD)), [0.9, 0.8])
    number = tiny.task(["score"], "pearson", kind="regression")
    assert read([{"id": "train-0", "score": 4.5}], number).of(GOOD).tolist() == [4.5]


def test_a_label_is_taken_in_place_of_probabilities(read):
    known = read([{"id": "train-0", "label": "positive"}, {"id": "train-1", "label": " negative ", "sure": 0.7}])
    found = np.concatenate(known.of_all([GOOD, BAD]))
    np.testing.assert_allclose(softmax(found, axis=-1), [[0, 1], [1, 0]], atol=1e-5)
    assert np.isfinite(found).all()
    csv = read("id,label,negative,positive\ntrain-0,positive,,\n", name="teacher.csv")
    np.testing.assert_allclose(softmax(csv.of(GOOD)), [0, 1], atol=1e-5)


@pytest.mark.parametrize(
    ("label", "expected"),
    [(["sad", "long"], [1, 1]), ("['sad']", [0, 1]), ("sad, long", [1, 1]), ([], [0, 0]), ("", [0, 0])],
)
def test_several_labels_are_a_list_or_a_text(read, label, expected):
    labels = tiny.task(["long", "sad"], "micro_f1", kind="multi_label")
    np.testing.assert_allclose(expit(read([{"id": "train-0", "label": label}], labels).of(GOOD)), expected, atol=1e-5)


def test_numbers_count_more_than_a_label_that_was_copied_from_the_row(read):
    known = read([{**GOOD, "label": "negative", **OTHER}])
    np.testing.assert_allclose(softmax(known.of(GOOD)), [0.4, 0.6], atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, {**ROW, "id": "train-1", "positive": 0.7}], "line 2: the probabilities sum to 0.9, expected 1"),
        (
            [{**ROW, "negative": -0.1, "positive": 1.1}],
            "line 1: 'negative': the probability -0.1 is not between 0 and 1",
        ),
        ([{**ROW, "positive": "high"}], "line 1: 'positive': expected a number, found 'high'"),
        ([{"id": "train-0", "negative": 1}], "line 1: no number for 'positive': expected one for each of neg"),
        (
            [{"id": "train-0"}],
            "line 1: no number for 'negative': expected one for each of negative, positive, or a 'la",
        ),
        ([{"id": "train-0", "label": "mixed"}], "line 1: 'mixed' is no class of the task: expected negative, positive"),
        (
            [{"id": "train-0", "label": ""}, {"id": "train-1", "label": None}],
            "line 1: no number for 'negative': expected one for each of negative, positive, or a 'la",
        ),
        (
            [{"id": "a", "probabilities": {"negative": 0.5, "positive": 0.5, "mixed": 0}}],
            "line 1: 'mixed' is no class of the task: expected negative, positive",
        ),
        (
            [{"id": "a", "probabilities": {"negative": 0.5, "mixed": 0.5}}],
            "line 1: 'mixed' is no class of the task: expected negative, positive",
        ),
        ([ROW, {**ROW, **OTHER}], "line 2: the same row as line 1, but other numbers: keep one of them"),
        ([ROW, {"text": "a good film", **OTHER}], "line 2: the same row as line 1, but other numbers: keep one of th"),
        ([{"text": "a good film", **OTHER}, ROW], "line 2: the same row as line 1, but other numbers: keep one of th"),
        (
            [ROW, {"text": "a good film", "id": "train-1", **OTHER}],
            "line 2: 'text' is not that of the row train-1, 'a bad film': leave out the ids, or make the pred",
        ),
        ([{"negative": 0.2, "positive": 0.8}], "line 1: no 'id' and no 'text': expected one of them"),
        ("", "teacher.jsonl has no rows"),
        (
            [{"id": "unlabelled-0", **OTHER}],
            "teacher.jsonl has none of the 2 rows of train: give ids or texts of rows in data/<task>/prepared/train",
        ),
    ],
)
def test_a_file_that_cannot_be_a_teacher_s_is_refused_by_line(read, rows, message):
    with pytest.raises(UserError, match=f"^finetune_teacher.predictions: (teacher.jsonl, )?{message}"):
        read(rows)


@pytest.mark.parametrize("label", ["", " "])
def test_rows_without_a_prediction_are_missing_and_counted(read, capsys, label):
    known = read(f"id,text,label\ntrain-0,a good film,positive\ntrain-1,a bad film,{label}\n", name="teacher.csv")
    assert known.of(GOOD) is not None and known.of(BAD) is None
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "1 of 2 rows of teacher.csv have no prediction and count as missing: line 3"
    assert said[1].startswith("teacher.csv has predictions for 1 of 2 rows of train")


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_csv_file_may_have_another_delimiter(read, delimiter):
    text = "text,note,label\na good film,a.b,positive\n".replace(",", delimiter).replace(".", ",")
    np.testing.assert_allclose(softmax(read(text, name="teacher.csv").of(GOOD)), [0, 1], atol=1e-5)


def labelled(count: int) -> dict[str, list[dict]]:
    """``count`` rows of train and of test, each with its own label."""
    return {
        part: [
            {"id": f"{part}-{number}", "text": f"{part} film {number}", "label": TASK.labels[number % 2]}
            for number in range(count)
        ]
        for part in ("train", "test")
    }


@pytest.mark.parametrize(
    ("count", "wrong", "expected"),
    [
        (20, (), "all 20 rows of train and all 20 rows of test"),
        (20, ("train",), "all 20 rows of test"),
        (20, ("train", "test"), None),  # a teacher that makes mistakes
        (19, (), None),
    ],
)
def test_labels_of_the_task_s_own_rows_in_the_teacher_s_place_are_doubted(read, capsys, count, wrong, expected):
    parts = labelled(count)
    rows = [{**row, "prediction": "x"} for of_part in parts.values() for row in of_part]
    for part in wrong:
        next(row for row in rows if row["id"] == f"{part}-0")["label"] = "positive"
    read(rows, parts=parts)
    doubts = [line for line in capsys.readouterr().out.splitlines() if line.startswith("DOUBTFUL: ")]
    line = (
        f"DOUBTFUL: teacher.jsonl has the task's own labels for {expected}: give the teacher's answers in the column"
        " 'label' (columns that are not read: prediction)"
    )
    assert doubts == ([line] if expected else [])


def test_a_label_that_no_row_of_the_task_has_is_refused_in_a_list_and_is_no_number(read):
    labels = tiny.task(["long", "sad"], "micro_f1", kind="multi_label")
    with pytest.raises(UserError, match="line 1: 'dull' is no class of the task: expected long, sad$"):
        read([{"id": "train-0", "label": ["sad", "dull"]}], labels)
    number = tiny.task(["score"], "pearson", kind="regression")
    with pytest.raises(UserError, match="line 1: no number for 'score': expected one$"):
        read([{"id": "train-0", "label": 4.5}], number)


def test_a_rounded_sum_and_the_same_row_twice_are_taken(read):
    assert len(read([{**ROW, "negative": 0.199}, {**ROW, "negative": 0.199}]).by_key) == 1
    read([ROW, {**ROW, "id": None, "text": "a good film"}])


def test_rows_of_test_with_the_same_text_may_have_different_predictions_by_id(read):
    known = read([ROW, {"id": "test-0", "text": "again", **OTHER}, {"id": "test-1", "label": "negative"}])
    found = softmax(np.concatenate(known.of_all(PARTS["test"])), axis=-1)
    np.testing.assert_allclose(found, [[0.4, 0.6], [1, 0]], atol=1e-5)
    assert known.of({"id": "test-7", "text": "again"}) is None  # which of the two?


def test_rows_of_test_are_found_after_a_change_of_their_ids(read):
    known = read([ROW, {"id": "test-0", "text": "again", **OTHER}])
    np.testing.assert_allclose(softmax(known.of({"id": "test-7", "text": "again"})), [0.4, 0.6], atol=1e-5)
    assert known.of({"id": "test-0", "text": "a bad film"}) is None


def test_the_log_warns_of_ids_without_texts(read, capsys):
    read([ROW, {"id": "train-1", "text": "a bad film", **OTHER}])
    assert "1 of 2 rows of teacher.jsonl have an id and no text: ids change with" in capsys.readouterr().out
    read([{**GOOD, **OTHER}])
    assert "an id and no text" not in capsys.readouterr().out


def test_a_text_beside_an_id_that_is_the_user_s_own_finds_its_row(read):
    assert read([{"id": 7, "text": "a good film", **OTHER}]).of(GOOD) is not None


def test_the_log_counts_the_rows_of_each_part_and_those_that_fit_none(read, capsys):
    read([ROW, {"id": "unlabelled-0", **OTHER}, {"id": "train-17", **OTHER}, {"text": "no film", **OTHER}])
    assert capsys.readouterr().out.splitlines()[:2] == [
        "teacher.jsonl has predictions for 1 of 2 rows of train, 0 of 1 rows of validation, 0 of 2 rows of test, 1 of 1"
        " rows of unlabelled",
        "2 of 4 rows of teacher.jsonl fit no row of train, validation, test, unlabelled: line 3; line 4",
    ]
    read([ROW])
    assert "fit no row" not in capsys.readouterr().out


def test_a_kind_with_several_predictions_for_a_row_has_no_file(read):
    with pytest.raises(UserError, match="only tasks with one prediction for a text may have a file"):
        read([ROW], tiny.task([], "f1", kind="question_answering"))
