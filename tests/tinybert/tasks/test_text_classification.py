import copy
import random

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import BertForSequenceClassification, pipeline

from pipeline.tinybert import tasks
from pipeline.tinybert.settings import Source
from pipeline.tinybert.stage import UserError
from pipeline.tinybert.tasks.text_classification import TextClassification

THREE = ["a", "b", "c"]
TOKENIZER = tiny.tokenizer()


def read(*records, **source):
    numbered = [(f"rows.csv, row {number}", record) for number, record in enumerate(records, 1)]
    return TextClassification.read(numbered, Source(location="x", **{"label": "label", **source}), "tasks.tiny.source")


def labelled(labels) -> list[dict]:
    return [{"id": str(number), "text": "text", "label": label} for number, label in enumerate(labels)]


# Rows.


def test_records_become_rows_with_stripped_text_and_named_labels():
    rows = read({"text": " good ", "label": 1, "more": 2}, {"text": "bad", "label": "0 "}, labels={"no": 0, "yes": 1})
    assert rows == [
        {"text": "good", "label": "yes", "where": "rows.csv, row 1"},
        {"text": "bad", "label": "no", "where": "rows.csv, row 2"},
    ]


def test_labels_without_names_are_their_own():
    assert [row["label"] for row in read({"text": "x", "label": 3}, {"text": "y", "label": "odd"})] == ["3", "odd"]


def test_a_source_that_names_no_label_column_is_refused():
    with pytest.raises(UserError, match="^tasks.tiny.source.label: missing: name the column"):
        read({"text": "film", "label": 1}, label=None)


def test_all_bad_rows_are_told_of_and_ten_are_named():
    bad = [{"text": "", "label": 1}, {"text": "film", "label": float("nan")}, *[{"text": None, "label": 1}] * 11]
    with pytest.raises(UserError) as raised:
        read({"text": "film", "label": 1}, *bad)
    message = str(raised.value)
    assert "row 2: column 'text': empty text; rows.csv, row 3: column 'label': no label; " in message
    assert "row 11" in message and "row 12" not in message and message.endswith("; and 3 more")


def test_an_unknown_metric_is_refused_with_those_that_there_are():
    with pytest.raises(UserError, match="^key: expected one of accuracy, macro_f1, mcc .* found 'f1'"):
        tasks.check_metric(tiny.task_settings("f1"), "key")
    tasks.check_metric(tiny.task_settings("mcc"), "key")


def test_a_task_is_saved_and_loaded(tmp_path):
    settings = tiny.task_settings("mcc", max_length=77)
    tasks.save(tasks.create(settings, ["é", "b"]), tmp_path / "task.json")
    loaded = tasks.load(tmp_path / "task.json", settings)
    assert isinstance(loaded, TextClassification)
    assert (loaded.labels, loaded.metric, loaded.max_length) == (["é", "b"], "mcc", 77)


# Model inputs.


def test_rows_are_encoded_with_the_numbers_of_their_labels(task):
    columns = task.encode([{"text": "good film", "label": "positive"}, {"text": "bad", "label": "negative"}], TOKENIZER)
    assert columns["labels"] == [1, 0]
    assert columns["input_ids"] == TOKENIZER(["good film", "bad"])["input_ids"]
    assert [len(mask) for mask in columns["attention_mask"]] == [4, 3]


def test_rows_without_a_label_have_no_labels(task):
    assert "labels" not in task.encode([{"text": "good film"}, {"text": "bad"}], TOKENIZER)


@pytest.mark.parametrize(("max_length", "expected"), [(8, 8), (64, 64), (500, 64)])
def test_texts_are_cut_to_the_set_length_and_to_what_the_model_takes(max_length, expected):
    task = tiny.task(THREE, max_length=max_length)
    assert [len(ids) for ids in task.encode([{"text": "film " * 100}], TOKENIZER)["input_ids"]] == [expected]


@settings(deadline=None)
@given(st.text(), st.text())
def test_the_whole_text_may_change_in_a_copy_of_the_row(text, other):
    task = tiny.task(THREE)
    row = {"id": "train-0", "text": text, "label": "a", "note": 1}
    before = copy.deepcopy(row)
    assert task.replaceable(row) == {"text": [(0, len(text))]}
    assert task.replaced(row, "text", other) == {**before, "text": other}
    assert row == before


def test_a_model_is_loaded_with_a_head_of_the_tasks_labels(tmp_path):
    tiny.write_checkpoint(tmp_path / "encoder", layers=1)
    task = tiny.task(THREE)
    model = task.load_model(tmp_path / "encoder")
    assert isinstance(model, BertForSequenceClassification)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2}
    assert model(**TOKENIZER("film", return_tensors="pt")).logits.shape == (1, 3)


def test_a_saved_model_answers_with_the_tasks_label_names(tmp_path, task):
    tiny.write_checkpoint(tmp_path / "model", layers=1)
    task.load_model(tmp_path / "model").save_pretrained(tmp_path / "model")
    assert pipeline("text-classification", model=str(tmp_path / "model"))("good film")[0]["label"] in task.labels


# Logits and scores.


def test_each_row_has_one_row_of_class_logits_that_counts(task):
    logits = torch.randn(4, 2)
    rows, mask = task.class_logits(logits)
    assert torch.equal(rows, logits)
    assert mask.dtype == torch.bool and mask.tolist() == [True] * 4


def test_the_greatest_logit_is_the_prediction():
    task = tiny.task(THREE)
    assert task.predictions(np.array([[0, 2, 1], [-1, -3, -2], [0, 0, 9]])) == ["b", "a", "c"]


def test_scores_are_those_computed_by_hand():
    task = tiny.task(["no", "yes"])
    actual = ["yes"] * 6 + ["no"] * 4
    predicted = ["yes"] * 5 + ["no"] + ["yes"] * 2 + ["no"] * 2  # 5 true, 1 missed; 2 wrong, 2 rightly not
    scores = task.score(labelled(actual), predicted)
    assert scores == {
        "accuracy": pytest.approx(7 / 10),
        "macro_f1": pytest.approx((2 * 5 / (6 + 7) + 2 * 2 / (4 + 3)) / 2),
        "mcc": pytest.approx((5 * 2 - 2 * 1) / (7 * 6 * 4 * 3) ** 0.5),
    }


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=30))
def test_scores_are_those_of_scikit_learn(pairs):
    task = tiny.task(list("abcd"))
    actual, predicted = map(list, zip(*pairs, strict=True))
    assert task.score(labelled(actual), predicted) == {
        "accuracy": pytest.approx(accuracy_score(actual, predicted)),
        "macro_f1": pytest.approx(f1_score(actual, predicted, average="macro", zero_division=0)),
        "mcc": pytest.approx(matthews_corrcoef(actual, predicted)),
    }


def test_the_trivial_predictor_says_the_most_frequent_label_of_training():
    task = tiny.task(THREE)
    labels = ["a"] * 3 + ["b"] * 5 + ["c"] * 4
    random.Random(0).shuffle(labels)
    assert task.trivial_predictions(labelled(labels), labelled("ac")) == ["b", "b"]
