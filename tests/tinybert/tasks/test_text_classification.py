import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import BertForSequenceClassification, pipeline

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Source
from pipeline.tinybert.preparation.records import parse_records

THREE = ["a", "b", "c"]
TOKENIZER = tiny.tokenizer()


def read(*records, **source):
    numbered = [(f"rows.csv, line {number}", record) for number, record in enumerate(records, 1)]
    return parse_records(tiny.task([]), numbered, Source(location="x", **source), "tasks.tiny.source")


def labelled(labels) -> list[dict]:
    return [{"id": str(number), "text": "text", "label": label} for number, label in enumerate(labels)]


# Rows.


def test_records_become_rows_with_stripped_text_and_named_labels():
    rows = read({"text": " good ", "label": 1, "more": 2}, {"text": "bad", "label": "0 "}, labels={"no": 0, "yes": 1})
    assert rows == [
        {"text": "good", "label": "yes", "where": "rows.csv, line 1"},
        {"text": "bad", "label": "no", "where": "rows.csv, line 2"},
    ]


def test_values_are_the_labels_if_no_names_are_set():
    assert [row["label"] for row in read({"text": "x", "label": 3}, {"text": "y", "label": "odd"})] == ["3", "odd"]


def test_a_pair_has_two_texts():
    rows = read({"one": "a film ", "other": "a plot", "label": 1}, text="one", pair="other")
    assert rows == [{"text": "a film", "pair": "a plot", "label": "1", "where": "rows.csv, line 1"}]


def test_a_pair_without_its_second_text_is_refused():
    with pytest.raises(UserError, match="line 1: column 'other': empty text"):
        read({"text": "a film", "other": " ", "label": 1}, pair="other")


def test_all_bad_rows_are_counted_and_ten_are_logged_one_a_line_with_what_the_others_hold(capsys):
    bad = [{"text": "", "label": 1}, {"text": "film", "label": float("nan")}, *[{"text": None, "label": 1}] * 11]
    with pytest.raises(UserError) as raised:
        read({"text": "film", "label": 1}, *bad)
    first = "rows.csv, line 2: column 'text': empty text"
    assert str(raised.value).endswith(f": 13 of 14 rows are invalid, as listed above; the first: {first}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"  {first}", "  rows.csv, line 3: column 'label': no label"]
    assert lines[10] == "  and 3 more" and lines[11].endswith(": 1 other rows are valid: 1 1")


def test_a_list_of_one_label_is_the_label():
    rows = read({"text": "a film", "label": ["good"]}, {"text": "a plot", "label": "bad"})
    assert [row["label"] for row in rows] == ["good", "bad"]


def test_a_list_of_labels_is_refused():
    for several in (["good", "bad"], [], {"good": 1}):
        with pytest.raises(UserError, match=r"line 1: column 'label': expected one label, found .* multi_label"):
            read({"text": "a film", "label": several})


def test_labels_have_the_order_of_the_settings_or_else_of_the_alphabet():
    train = labelled(["good", "bad"])
    for names, expected in [
        (None, ["bad", "good"]),
        ({"good": 1, "bad": 0}, ["good", "bad"]),
        ({"bad": 0, "odd": 2, "good": 1}, ["bad", "good"]),
    ]:
        assert tiny.task([]).label_names(train, Source(location="x", labels=names), "key") == expected


def test_a_single_class_is_refused():
    with pytest.raises(UserError, match="^key: all 9 rows of train have the label 'x', expected two classes or more"):
        tiny.task([]).label_names(labelled("x" * 9), Source(location="x"), "key")


def test_the_summary_counts_labels_in_alphabetical_order():
    assert tiny.task([]).summary(labelled(["b", "a", "b"])) == "a 1, b 2"


# Model inputs.


def test_rows_are_encoded_with_the_indices_of_their_labels(task):
    columns = task.encode([{"text": "good film", "label": "positive"}, {"text": "bad", "label": "negative"}], TOKENIZER)
    assert columns["labels"] == [1, 0]
    assert columns["input_ids"] == TOKENIZER(["good film", "bad"])["input_ids"]
    assert [len(mask) for mask in columns["attention_mask"]] == [4, 3]


def test_unlabelled_rows_are_encoded_without_labels(task):
    assert "labels" not in task.encode([{"text": "good film"}, {"text": "bad"}], TOKENIZER)


@pytest.mark.parametrize(("max_length", "expected"), [(8, 8), (64, 64), (500, 64)])
def test_texts_are_truncated_to_max_length_and_to_the_model_s_limit(max_length, expected):
    task = tiny.task(THREE, max_length=max_length)
    assert [len(ids) for ids in task.encode([{"text": "film " * 100}], TOKENIZER)["input_ids"]] == [expected]


@settings(deadline=None)
@given(st.text(), st.text())
def test_the_whole_text_is_replaceable_and_the_original_row_stays(text, other):
    task = tiny.task(THREE)
    row = {"id": "train-0", "text": text, "label": "a", "note": 1}
    before = copy.deepcopy(row)
    assert task.replaceable_spans(row) == {"text": (text, [(0, len(text))])}
    assert task.apply_edits(row, "text", [(0, len(text), other)]) == {**before, "text": other}
    assert row == before


def test_an_edit_of_one_text_of_a_pair_leaves_the_other_unchanged():
    task = tiny.task(THREE)
    row = {"id": "train-0", "text": "a good film", "pair": "a bad film", "label": "a"}
    assert task.replaceable_spans(row) == {"text": ("a good film", [(0, 11)]), "pair": ("a bad film", [(0, 10)])}
    assert task.apply_edits(row, "pair", [(2, 5, "poor")]) == {**row, "pair": "a poor film"}


def test_a_pair_is_encoded_as_two_segments(task):
    rows = [{"text": "good film", "pair": "bad"}, {"text": "bad", "pair": "plot"}]
    encoded = task.encode(rows, TOKENIZER)
    assert encoded["input_ids"] == TOKENIZER(["good film", "bad"], ["bad", "plot"])["input_ids"]
    assert [sum(types) for types in encoded["token_type_ids"]] == [2, 2]


def test_a_model_is_loaded_with_a_head_for_the_task_s_labels(tmp_path):
    tiny.write_checkpoint(tmp_path / "encoder", layers=1)
    task = tiny.task(THREE)
    model = task.load_model(tmp_path / "encoder")
    assert isinstance(model, BertForSequenceClassification)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2}
    assert model(**TOKENIZER("film", return_tensors="pt")).logits.shape == (1, 3)


def test_a_saved_model_predicts_the_task_s_label_names(tmp_path, task):
    tiny.write_checkpoint(tmp_path / "model", layers=1)
    task.load_model(tmp_path / "model").save_pretrained(tmp_path / "model")
    assert pipeline("text-classification", model=str(tmp_path / "model"))("good film")[0]["label"] in task.labels


# Logits and scores.


def test_each_row_has_class_logits_at_one_position_which_counts(task):
    logits = torch.randn(4, 2)
    assert torch.equal(task.class_logits(SimpleNamespace(logits=logits)), logits.unsqueeze(1))
    assert task.encode([{"text": "film"}] * 4, TOKENIZER)["label_mask"] == [[True]] * 4


def test_the_class_with_the_largest_logit_is_predicted():
    task = tiny.task(THREE)
    logits = [np.array([row]) for row in ([0, 2, 1], [-1, -3, -2], [0, 0, 9])]
    assert task.predictions(logits, None, []) == ["b", "a", "c"]


def test_scores_equal_those_computed_by_hand():
    task = tiny.task(["no", "yes"])
    actual = ["yes"] * 6 + ["no"] * 4
    predicted = ["yes"] * 5 + ["no"] + ["yes"] * 2 + ["no"] * 2  # 5 TP, 1 FN, 2 FP, 2 TN
    scores = task.score(labelled(actual), predicted)
    assert scores == {
        "accuracy": pytest.approx(7 / 10),
        "macro_f1": pytest.approx((2 * 5 / (6 + 7) + 2 * 2 / (4 + 3)) / 2),
        "mcc": pytest.approx((5 * 2 - 2 * 1) / (7 * 6 * 4 * 3) ** 0.5),
        "f1": {"no": pytest.approx(2 * 2 / (4 + 3)), "yes": pytest.approx(2 * 5 / (6 + 7))},
    }


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=30))
def test_scores_equal_scikit_learn_s(pairs):
    task = tiny.task(list("abcd"))
    actual, predicted = map(list, zip(*pairs, strict=True))
    assert task.score(labelled(actual), predicted) == {
        "accuracy": pytest.approx(accuracy_score(actual, predicted)),
        "macro_f1": pytest.approx(f1_score(actual, predicted, average="macro", zero_division=0)),
        "mcc": pytest.approx(matthews_corrcoef(actual, predicted)),
        "f1": pytest.approx(
            dict(
                zip(
                    "abcd", f1_score(actual, predicted, average=None, labels=list("abcd"), zero_division=0), strict=True
                )
            )
        ),
    }


def test_calibration_compares_the_predicted_class_s_probability_with_its_correctness():
    logits = [np.log([row]) for row in ([0.2, 0.7, 0.1], [0.5, 0.25, 0.25])]
    confidence, correct = tiny.task(THREE).calibration(labelled("bc"), ["b", "a"], logits)
    np.testing.assert_allclose(confidence, [0.7, 0.5])
    assert correct.tolist() == [True, False]


def test_the_length_counts_the_words_of_both_texts_of_a_pair():
    task = tiny.task(THREE)
    assert task.length({"text": "a  good film"}) == 3
    assert task.length({"text": "a good film", "pair": "a plot"}) == 5
    assert task.length({"text": "这部电影很好看。", "pair": "a plot"}) == 7


def test_the_trivial_predictor_predicts_the_majority_class_of_train():
    task = tiny.task(THREE)
    labels = ["a"] * 3 + ["b"] * 5 + ["c"] * 4
    random.Random(0).shuffle(labels)
    assert task.trivial_predictions(labelled(labels), labelled("ac")) == ["b", "b"]


def test_the_confusion_has_one_pair_per_row():
    pairs = tiny.task(["no", "yes"]).confusion(labelled(["no", "yes", "yes"]), ["yes", "yes", "no"])
    assert list(pairs) == [("no", "yes"), ("yes", "yes"), ("yes", "no")]
