import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from torch.nn.functional import binary_cross_entropy_with_logits

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Source
from pipeline.tinybert.preparation.records import parse_records

NAMES = ["funny", "long", "sad"]
TASK = tiny.task(NAMES, "micro_f1", kind="multi_label")


def labelled(sets) -> list[dict]:
    return [{"id": str(number), "text": "text", "label": sorted(labels)} for number, labels in enumerate(sets)]


def read(*records, **source) -> list[list[str]]:
    numbered = [(f"rows.csv, line {number}", {"text": "a film", **record}) for number, record in enumerate(records, 2)]
    rows = parse_records(TASK, numbered, Source(location="x", **source), "tasks.tiny.source")
    return [row["label"] for row in rows]


def test_labels_are_a_list_or_a_text_with_separators_and_may_be_empty():
    cells = [["sad", "funny"], "funny, sad", "", [], "long"]
    assert read(*({"label": cell} for cell in cells)) == [["funny", "sad"], ["funny", "sad"], [], [], ["long"]]
    assert read({"tags": "sad|long"}, label="tags", separator="|") == [["long", "sad"]]
    assert read({"label": [0, 2]}, labels={"funny": 0, "long": 1, "sad": 2}) == [["funny", "sad"]]


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("['film', 'bad']", ["bad", "film"]),
        ('["film", "bad"]', ["bad", "film"]),
        ("[]", []),
        (' ["it\'s, bad"] ', ["it's, bad"]),
        ("[1, 2]", ["1", "2"]),
        ("(other), [odd]", ["(other)", "[odd]"]),
        ("(other)", ["(other)"]),
    ],
)
def test_a_list_may_be_written_as_text(cell, labels):
    assert read({"label": cell}) == [labels]


@pytest.mark.parametrize(
    "cell",
    ["['film' 'bad']", "[film, bad]", "('film', 'bad')", "{'film'}", "['film', nan]", "['film'", '[["a"]]', "[null]"],
)
def test_a_list_written_as_text_that_cannot_be_read_is_refused_with_its_line(cell):
    with pytest.raises(UserError, match="^tasks.tiny.source: rows.csv, line 2: column 'label': "):
        read({"label": cell})


@pytest.mark.parametrize("cell", [[0, 1, 0, 0], "[0, 1, 0, 0]", [0.0, 0.0, 1.0], np.array([0, 0, 1])])
def test_a_0_or_1_for_each_label_is_refused(cell):
    """The labels would be called 0 and 1."""
    with pytest.raises(UserError, match="line 2: column 'label': .* has a 0 or 1 for each label: write the names of"):
        read({"label": cell})


def test_each_label_may_have_its_own_column():
    rows = read({"funny": "1", "sad": "0"}, {"funny": 0, "sad": True}, {"funny": "", "sad": 0}, label=["sad", "funny"])
    assert rows == [["funny"], ["sad"], []]


@pytest.mark.parametrize(
    ("record", "source", "expected"),
    [
        ({"label": None}, {}, "line 2: column 'label': expected a list of labels or a text with separators"),
        ({"label": 3}, {}, "expected a list of labels or a text with separators (empty: none), found 3"),
        ({"label": {"funny": 1}}, {}, "expected a list of labels"),
        ({"label": ["funny", None]}, {}, "expected a list of labels"),
        (
            {"funny": 1},
            {"label": ["funny"], "labels": {"funny": 1}},
            "source.labels: columns of 0 and 1 are",
        ),
        ({"label": "funny,odd"}, {"labels": {"funny": "funny"}}, "label 'odd' is not in the source's `labels`"),
        ({"funny": "2"}, {"label": ["funny"]}, "column 'funny': expected 1 or 0, found '2'"),
    ],
)
def test_invalid_labels_are_reported_with_their_line(record, source, expected):
    with pytest.raises(UserError) as raised:
        read(record, **source)
    assert expected in str(raised.value)


def test_a_single_label_is_refused():
    with pytest.raises(UserError, match="^key: 1 labels in 2 rows, expected two or more: check"):
        TASK.label_names(labelled([{"sad"}, set()]), Source(location="x"), "key")


def test_the_loss_is_the_binary_cross_entropy_of_each_label(tmp_path):
    tiny.write_checkpoint(tmp_path / "encoder", layers=1)
    model = TASK.load_model(tmp_path / "encoder").eval()
    encoded = TASK.encode([{"text": "good film", "label": ["funny", "sad"]}], tiny.tokenizer())
    assert encoded["labels"] == [[1.0, 0.0, 1.0]]
    labels = torch.tensor(encoded["labels"])
    outputs = model(**tiny.tokenizer()(["good film"], return_tensors="pt"), labels=labels)
    torch.testing.assert_close(outputs.loss, binary_cross_entropy_with_logits(outputs.logits, labels))


def test_labels_with_a_probability_of_at_least_one_half_are_predicted():
    logits = [np.array([[1.0, -1.0, 0.0]]), np.array([[-3.0, -0.1, -2.0]])]
    assert TASK.predictions(logits, None, []) == [["funny", "sad"], []]


sets = st.sets(st.sampled_from(NAMES))


@settings(deadline=None)
@given(st.lists(st.tuples(sets, sets), min_size=1, max_size=20))
def test_scores_equal_scikit_learn_s(pairs):
    actual, predicted = map(list, zip(*pairs, strict=True))
    matrices = [np.array([[name in labels for name in NAMES] for labels in side]) for side in (actual, predicted)]
    by_label = f1_score(*matrices, average=None, zero_division=0)
    assert TASK.score(labelled(actual), [sorted(labels) for labels in predicted]) == {
        "micro_f1": pytest.approx(f1_score(*matrices, average="micro", zero_division=0)),
        "macro_f1": pytest.approx(np.nan_to_num(f1_score(*matrices, average="macro", zero_division=np.nan))),
        "f1": pytest.approx(dict(zip(NAMES, by_label, strict=True))),
    }


def test_calibration_compares_each_label_s_probability_with_its_presence():
    logits = [np.log([[3.0, 1.0, 1 / 4]]), np.log([[1.0, 9.0, 1.0]])]
    confidence, present = TASK.calibration(labelled([{"funny", "sad"}, {"long"}]), [["funny", "long"], NAMES], logits)
    np.testing.assert_allclose(confidence, [0.75, 0.5, 0.2, 0.5, 0.9, 0.5])
    assert present.tolist() == [1, 0, 1, 0, 1, 0]


def test_the_trivial_predictor_predicts_the_most_frequent_label():
    train = labelled([{"sad"}, {"sad", "long"}, set()])
    assert TASK.trivial_predictions(train, labelled([set(), {"sad"}])) == [["sad"], ["sad"]]


def test_the_confusion_has_a_pair_for_each_actual_or_predicted_label():
    pairs = TASK.confusion(labelled([{"sad", "long"}, set()]), [["funny", "sad"], []])
    assert sorted(pairs) == [("long", "none"), ("none", "funny"), ("sad", "sad")]


def test_labels_that_do_not_occur_do_not_lower_macro_f1():
    """Otherwise a rare label that a resample lacks would lower the interval."""
    assert TASK.score(labelled([[NAMES[0]]] * 3), [[NAMES[0]]] * 3)["macro_f1"] == 1


def test_blanks_around_a_label_do_not_count():
    assert read({"label": [f"{NAMES[0]} ", NAMES[0], " "]}) == [[NAMES[0]]]
