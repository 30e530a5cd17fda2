import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Source
from pipeline.tinybert.preparation.records import parse_records
from pipeline.tinybert.tasks.regression import step

TASK = tiny.task(["score"], "pearson_spearman", kind="regression")


def scored(values) -> list[dict]:
    return [{"id": str(number), "text": "text", "label": value} for number, value in enumerate(values)]


def read(*records, **source):
    numbered = [(f"rows.csv, line {number}", record) for number, record in enumerate(records, 2)]
    return parse_records(TASK, numbered, Source(location="x", label="score", **source), "tasks.tiny.source")


def test_numbers_are_read_in_every_notation():
    rows = read(*({"text": "a film", "score": value} for value in ("3.5", " 4 ", 2, 0.25, "1e-1")))
    assert [row["label"] for row in rows] == [3.5, 4.0, 2.0, 0.25, 0.1]


@pytest.mark.parametrize("value", ["good", "", None, "nan", float("inf"), "3,5", "1_000x", 10**310])
def test_a_label_that_is_not_a_number_is_reported_with_its_line(value):
    with pytest.raises(UserError, match="rows.csv, line 2: column 'score': expected a number, found "):
        read({"text": "a film", "score": value})


def test_a_label_too_large_for_the_loss_is_reported_with_its_line():
    with pytest.raises(UserError, match="rows.csv, line 2: column 'score': .* found -1e[+]20, which is above 1e[+]12"):
        read({"text": "a film", "score": -1e20})


def test_labels_far_from_zero_are_doubtful(capsys):
    TASK.label_names(scored([0, 1000]), Source(location="x"), "tasks.tiny.source")
    assert not capsys.readouterr().out
    TASK.label_names(scored([0, -250_000]), Source(location="x"), "tasks.tiny.source")
    assert capsys.readouterr().out.startswith("DOUBTFUL: tasks.tiny.source: labels up to 250000: ")


def test_labels_that_are_all_equal_are_refused():
    with pytest.raises(UserError, match=r"^tasks.tiny.source: all rows of train have the score 3: check `label`"):
        TASK.label_names(scored([3, 3.0]), Source(location="x"), "tasks.tiny.source")
    assert TASK.label_names(scored([3, 3.5]), Source(location="x"), "tasks.tiny.source") == ["score"]


def test_the_model_has_one_output_and_a_squared_error_loss(tmp_path):
    tiny.write_checkpoint(tmp_path / "encoder", layers=1)
    model = TASK.load_model(tmp_path / "encoder")
    assert model.config.problem_type == "regression"
    rows = [{"text": "good film", "label": 2.5}, {"text": "bad", "label": 0.5}]
    encoded = TASK.encode(rows, tiny.tokenizer())
    assert encoded["labels"] == [2.5, 0.5]
    inputs = tiny.tokenizer()([row["text"] for row in rows], padding=True, return_tensors="pt")
    outputs = model.eval()(**inputs, labels=torch.tensor(encoded["labels"]))
    assert outputs.logits.shape == (2, 1)
    expected = np.mean(
        [(out - label) ** 2 for out, label in zip(outputs.logits[:, 0].tolist(), [2.5, 0.5], strict=True)]
    )
    assert outputs.loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_output_is_the_prediction():
    assert TASK.predictions([np.array([[1.5]]), np.array([[-2.0]])], None, []) == [1.5, -2.0]


pairs = st.lists(st.tuples(st.integers(0, 5), st.floats(-3, 3).map(lambda x: round(x, 3))), min_size=3, max_size=30)


@settings(deadline=None)
@given(pairs.filter(lambda pairs: all(len(set(side)) > 1 for side in zip(*pairs, strict=True))))
def test_correlations_equal_scipy_s(pairs):
    actual, predicted = map(list, zip(*pairs, strict=True))
    pearson, spearman = pearsonr(actual, predicted).statistic, spearmanr(actual, predicted).statistic
    assert TASK.score(scored(actual), predicted) == {
        "pearson": pytest.approx(pearson, abs=1e-6),
        "spearman": pytest.approx(spearman, abs=1e-6),
        "pearson_spearman": pytest.approx((pearson + spearman) / 2, abs=1e-6),
    }


def test_calibration_compares_the_number_with_the_label():
    predicted, actual = TASK.calibration(scored([0.5, 4.5]), [1.5, -2.0], [np.array([[1.5]]), np.array([[-2.0]])])
    assert (predicted.tolist(), actual.tolist()) == ([1.5, -2.0], [0.5, 4.5])


def test_the_trivial_predictor_predicts_the_mean_and_has_correlation_0():
    train, rows = scored([0.1, 0.2, 4.6]), scored([1.0, 2.0, 3.0])
    trivial = TASK.trivial_predictions(train, rows)
    assert trivial == [pytest.approx(4.9 / 3)] * 3
    assert set(TASK.score(rows, trivial).values()) == {0.0}


@pytest.mark.parametrize(
    ("lowest", "highest", "expected"),
    [
        (0, 5, 1),
        (1, 5, 1),
        (0, 1, 0.2),
        (0, 0.8, 0.2),
        (-1, 1, 0.5),
        (0, 10, 2),
        (1, 100, 20),
        (3, 3, 1),
        (0, 1e-3, 2e-4),
    ],
)
def test_the_step_of_agreement_and_confusion_goes_with_the_range_of_the_labels(lowest, highest, expected):
    assert step(scored([highest, lowest, lowest])) == expected


def test_models_agree_if_their_numbers_round_to_the_same_step():
    stars, shares = scored([1, 5, 3, 3]), scored([0, 1, 0.5, 0.5])
    assert TASK.agreement(stars, [1.6, 4.4, 2.5, 1], [2.4, 4.6, 2.4, 1.1]) == 0.75
    assert TASK.agreement(shares, [0.31, 0.9, 0.51, 0.0], [0.45, 0.45, 0.52, -0.01]) == 0.75
    assert list(TASK.confusion(stars, [1.4, -0.2, 2.51, 7])) == [("1", "1"), ("5", "0"), ("3", "3"), ("3", "7")]
    assert list(TASK.confusion(shares, [0.05, 0.69, 0.55, 1])) == [
        ("0", "0"),
        ("1", "0.6"),
        ("0.4", "0.6"),
        ("0.4", "1"),
    ]


def test_a_submission_stays_within_the_range_of_the_labels_of_train():
    """The server of STS-B refuses numbers outside 0 to 5."""
    values = TASK.submission_values([-0.2, 5.0004, 7, 2.34567], Source(location="x"), scored([0, 2.5, 5]))
    assert values == ["0.000", "5.000", "5.000", "2.346"]


@pytest.mark.parametrize("constant", [0.0, 2.5, 0.1, -3e4])
def test_a_correlation_with_constant_predictions_is_0(constant):
    rows = scored([1.0, 2.0, 4.0] * 7)
    assert set(TASK.score(rows, [constant] * 21).values()) == {0.0}
    assert set(TASK.score(scored([constant] * 3), [1.0, 2.0, 3.0]).values()) == {0.0}


def test_labels_of_a_tiny_range_are_not_taken_for_constant():
    assert TASK.score(scored([1e-8, 2e-8, 3e-8]), [1e-8, 2e-8, 3e-8])["pearson"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("predictions", "is_doubtful"),
    [([1.2, 1.9, 3.3, 3.8], False), ([0.2, 0.4, 0.6, 0.8], True), ([4, 3, 2, 1], False), ([2, 2, 2, 2], False)],
    ids=["the labels' scale", "a fifth of it", "wrong, and its score shows it", "constant"],
)
def test_a_model_s_numbers_on_another_scale_than_the_labels_are_doubtful(predictions, is_doubtful):
    doubt = TASK.doubt(scored([1, 2, 3, 4]), predictions)
    assert (
        doubt.startswith("its numbers (0.5 ± 0.224) are on another scale than the labels (2.5 ± 1.12)") == is_doubtful
    )
    assert bool(doubt) == is_doubtful
