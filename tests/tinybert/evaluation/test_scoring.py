import random
import time

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tinybert import tasks
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Evaluate
from pipeline.tinybert.data.rows import digest
from pipeline.tinybert.evaluation import comparison, scoring

LABELS = ["negative", "positive"]
TEN = [{"id": f"test-{n}", "text": f"text {n}", "label": LABELS[n < 6]} for n in range(10)]  # 6 positive, 4 negative

CURVES = {"teacher": [(0.9, 0.8, 10)], "student": [(0.6, 0.7, 1), (0.9, 0.5, 3)], "student_alone": [(1.0, 0.7, 10)]}


def wrong_on(*rows: int) -> list[str]:
    """Predictions for ``TEN`` that are wrong on these rows, right on the others."""
    return [LABELS[(row["label"] == "positive") != (number in rows)] for number, row in enumerate(TEN)]


def report(task, teacher, student, student_alone=None, resamples=50, seed=1):
    predictions = {"teacher": teacher, "student": student, "student_alone": student_alone or wrong_on()}
    settings = Evaluate(seed=seed, resamples=resamples)
    return scoring.report(task, TEN, predictions, ["positive"] * len(TEN), settings, CURVES)


def interval(task, rows, predictions: list, seed: int = 1, resamples: int = 1000) -> tuple[float, float]:
    """The interval of one model's main metric."""
    settings = Evaluate(seed=seed, resamples=resamples)
    ends = scoring.interval(scoring.resampled_scores(task, rows, {"student": predictions}, settings)["student"])
    return ends["low"], ends["high"]


def many(count: int, right: float) -> tuple[list[dict], list[str]]:
    draw = random.Random(0)
    rows = [{"id": f"test-{n}", "text": "text", "label": draw.choice(LABELS)} for n in range(count)]
    return rows, [row["label"] if draw.random() < right else draw.choice(LABELS) for row in rows]


def test_each_model_has_every_metric_and_an_interval_of_the_main_metric(task):
    scores = report(task, wrong_on(0), wrong_on(0, 9), wrong_on(0, 1, 2))
    assert list(scores) == [
        *("teacher", "student", "student_alone", "retention", "agreement", "gain", "teacher_gain", "test_rows")
    ]
    for name, accuracy in [("teacher", 0.9), ("student", 0.8), ("student_alone", 0.7)]:
        assert set(scores[name]) == {
            *("accuracy", "macro_f1", "mcc", "f1", "low", "high", "calibration_error", "confidence", "overconfidence")
        }
        assert scores[name]["accuracy"] == accuracy
        assert scores[name]["low"] < accuracy < scores[name]["high"]
    # Wrong on rows 0 and 9: 5 of 6 positive and 3 of 4 negative rows are right.
    assert scores["student"]["mcc"] == round((5 * 3 - 1 * 1) / (6 * 4 * 6 * 4) ** 0.5, 4)


def test_retention_is_the_students_score_over_the_teachers(task):
    assert report(task, wrong_on(0), wrong_on(0, 9))["retention"] == round(0.8 / 0.9, 4)


@pytest.mark.parametrize("teacher", [["positive"] * 10, ["negative"] * 10, wrong_on(0, 1, 2, 3)])
def test_retention_is_undefined_if_the_teacher_is_not_better_than_the_trivial_predictor(task, teacher):
    scores = report(task, teacher, wrong_on())
    assert scores["retention"] is None
    assert "retention undefined" in scoring.summary(task, scores)


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (wrong_on(), wrong_on(), 1.0),
        (wrong_on(0), wrong_on(9), 0.8),
        (wrong_on(0, 1), wrong_on(1, 2), 0.8),
        (wrong_on(*range(10)), wrong_on(), 0.0),
    ],
)
def test_agreement_is_the_share_of_rows_with_equal_predictions(task, teacher, student, expected):
    assert report(task, teacher, student)["agreement"] == expected


def test_retention_and_interval_use_the_tasks_main_metric(task):
    by_mcc = tiny.task(LABELS, "mcc")
    scores = report(by_mcc, wrong_on(0), wrong_on(0, 9))
    assert scores["retention"] == pytest.approx(scores["student"]["mcc"] / scores["teacher"]["mcc"], abs=1e-3)
    assert scores["teacher"]["low"] < scores["teacher"]["mcc"] <= scores["teacher"]["high"]
    assert scores["teacher"]["low"] < report(task, wrong_on(0), wrong_on(0, 9))["teacher"]["low"]


def test_the_interval_of_accuracy_matches_the_binomial_distribution(task):
    """The percentiles of resampled accuracies are close to the score ± 1.96 standard errors."""
    rows, predictions = many(900, right=0.6)
    low, high = interval(task, rows, predictions)
    score = task.score(rows, predictions)["accuracy"]
    error = (score * (1 - score) / 900) ** 0.5
    assert (low, high) == pytest.approx((score - 1.96 * error, score + 1.96 * error), abs=0.2 * error)


def test_the_interval_depends_on_the_seed_only(task):
    rows, predictions = many(300, right=0.6)
    one, again, other = (interval(task, rows, predictions, seed, resamples=25) for seed in (1, 1, 2))
    assert one == again != other


def test_a_perfect_model_has_an_interval_of_zero_width(task):
    scores = report(task, wrong_on(), wrong_on())
    assert (scores["student"]["low"], scores["student"]["high"]) == (1, 1)


def test_an_interval_of_a_thousand_resamples_takes_seconds(task):
    rows, predictions = many(1706, right=0.7)
    start = time.process_time()
    interval(task, rows, predictions)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("kind", ["text_classification", "multi_label", "named_entities"])
def test_an_interval_over_ten_thousand_labels_takes_seconds(kind):
    """30 resamples; a dense matrix for each took 8 GB and minutes."""
    count, draw = 10_000, random.Random(0)
    names = [f"label-{number:05}" for number in range(count)]
    labels = ["O", *(f"{mark}-{name}" for name in names for mark in "BI")] if kind == "named_entities" else names
    task = tiny.task(labels, tasks.KINDS[kind].metrics[0], kind=kind)
    chosen = {True: draw.choices(names, k=2000), False: draw.choices(names, k=2000)}
    if kind == "text_classification":
        rows, wrong = [{"label": name} for name in chosen[True]], chosen[False]
    elif kind == "multi_label":
        rows, wrong = [{"label": [name]} for name in chosen[True]], [[name] for name in chosen[False]]
    else:
        rows, wrong = [{"tags": [f"B-{name}"]} for name in chosen[True]], [[f"B-{name}"] for name in chosen[False]]
    start = time.process_time()
    low, high = interval(task, rows, wrong, resamples=30)
    assert 0 <= low <= high < 0.01 and time.process_time() - start < 3


def test_the_gain_is_the_students_score_minus_that_of_the_student_alone(task):
    scores = report(task, wrong_on(0), wrong_on(0, 9), wrong_on(0, 1, 2))
    assert scores["gain"]["value"] == 0.1 and scores["teacher_gain"]["value"] == 0.2 and scores["test_rows"] == 10
    assert scores["gain"]["low"] <= 0 < scores["gain"]["high"]


def test_the_interval_of_the_gain_is_paired(task):
    """Both models are scored on the same resamples: the gain varies only with the rows on which they differ."""
    rows, alone = many(400, right=0.4)
    wrong = [number for number, row in enumerate(rows) if alone[number] != row["label"]]
    student = [row["label"] if number in wrong[:20] else alone[number] for number, row in enumerate(rows)]
    predictions = {"student": student, "student_alone": alone}
    resampled = scoring.resampled_scores(task, rows, predictions, Evaluate(seed=1, resamples=1000))
    found = scoring.interval(resampled["student"] - resampled["student_alone"])
    error = (0.05 * 0.95 / 400) ** 0.5  # 20 of 400 rows are gained, none is lost
    assert [found["low"], found["high"]] == pytest.approx([0.05 - 1.96 * error, 0.05 + 1.96 * error], abs=0.3 * error)
    alone_low, alone_high = interval(task, rows, alone)
    assert found["high"] - found["low"] < (alone_high - alone_low) / 2
    assert scoring.interval(resampled["student_alone"]) == {"low": alone_low, "high": alone_high}


def test_models_with_equal_predictions_have_a_gain_of_exactly_zero(task):
    assert report(task, wrong_on(), wrong_on(0), wrong_on(0))["gain"] == {"value": 0, "low": 0, "high": 0}


def test_outputs_that_are_not_finite_are_an_error_that_names_the_model():
    scoring.check_finite([np.array([[1.0, -3e38]], dtype=np.float32)], "models/tiny/student")
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(UserError, match=r"^models/tiny/student: the model's outputs are not finite"):
            scoring.check_finite([np.zeros((1, 2)), np.array([[0.0, value]])], "models/tiny/student")


def test_scores_are_rounded_to_four_digits(task):
    scores = report(task, wrong_on(0, 1, 2), wrong_on(0, 9))
    by_class = [scores[name].pop("f1") for name in ("teacher", "student")]
    assert all(round(number, 4) == number for f1 in by_class for number in f1.values())
    teacher, student = scores["teacher"], scores["student"]
    numbers = [*teacher.values(), *student.values(), *scores["gain"].values(), scores["retention"], scores["agreement"]]
    assert numbers == [round(number, 4) for number in numbers]
    assert scores["retention"] == 1.1429


def test_the_calibration_error_is_the_weighted_mean_of_confidence_minus_accuracy(task):
    scores = report(task, wrong_on(), wrong_on())
    assert scores["teacher"]["calibration_error"] == 0.1
    assert scores["student"]["calibration_error"] == 0.325  # (0.1 + 3 × 0.4) / 4


def test_the_mean_confidence_stands_beside_how_far_it_is_above_the_accuracy(task):
    student = report(task, wrong_on(), wrong_on())["student"]
    assert student["confidence"] == 0.825  # (0.6 + 3 × 0.9) / 4
    assert student["overconfidence"] == 0.275  # the accuracy of the bins is (0.7 + 3 × 0.5) / 4


def test_a_task_without_probabilities_has_no_calibration_error():
    rows = [{"text": "text", "label": float(n)} for n in range(9)]
    predictions = dict.fromkeys(CURVES, [row["label"] for row in rows])
    task, settings = tiny.task(["score"], "pearson", kind="regression"), Evaluate(seed=1, resamples=5)
    scores = scoring.report(task, rows, predictions, [0.0] * 9, settings, CURVES)
    assert set(scores["teacher"]) == {"pearson_spearman", "pearson", "spearman", "low", "high"}


def test_a_reliability_curve_has_ten_bins_of_equal_counts():
    numbers = np.random.default_rng(0).permutation(200)
    curve = scoring.reliability(numbers / 200, numbers % 2 == 0)
    assert curve == [(pytest.approx((20 * ten + 9.5) / 200), 0.5, 20) for ten in range(10)]


probabilities = st.lists(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.8, 0.875, 1.0]) | st.floats(0, 1), min_size=1)


@given(probabilities)
def test_equal_confidences_share_a_bin_and_each_is_in_one_bin(numbers):
    values = np.array(numbers)
    curve = scoring.reliability(values, values)
    ends = np.cumsum([count for _, _, count in curve])
    in_order = np.sort(values)
    assert ends[-1] == len(numbers) and len(curve) <= 10
    assert all(in_order[end - 1] < in_order[end] for end in ends[:-1])
    for (confidence, accuracy, _), part in zip(curve, np.split(in_order, ends[:-1]), strict=True):
        assert confidence == accuracy == pytest.approx(part.mean())


def test_a_curve_has_at_most_one_bin_per_distinct_confidence():
    curve = scoring.reliability(np.array([0.9, 0.5, 0.9, 0.5]), np.array([True, True, True, False]))
    assert curve == [(0.5, 0.5, 2), (pytest.approx(0.9), 1.0, 2)]


def test_scores_by_length_start_with_the_shortest_class(task):
    lengths = [40, 1, 9, 3, 2, 8, 15]
    rows = [{"text": "word " * length, "label": "positive"} for length in lengths]
    right = ["positive"] * 7
    wrong_if_long = ["negative" if length > 8 else "positive" for length in lengths]
    assert list(scoring.by_length(task, rows, {"teacher": right, "student": wrong_if_long})) == [
        ("teacher", "accuracy", "1", 1.0, 1),
        ("teacher", "accuracy", "2-3", 1.0, 2),
        ("teacher", "accuracy", "8-15", 1.0, 3),
        ("teacher", "accuracy", "32-63", 1.0, 1),
        ("student", "accuracy", "1", 1.0, 1),
        ("student", "accuracy", "2-3", 1.0, 2),
        ("student", "accuracy", "8-15", 0.3333, 3),
        ("student", "accuracy", "32-63", 0.0, 1),
    ]


def test_questions_are_classed_by_answer_length_with_unanswerable_ones_first():
    task = tiny.task([], "f1_with_answer", kind="question_answering", unanswerable=True)
    rows = [{"answers": [{"text": "good film", "start": 0}, {"text": "film", "start": 5}]}, {"answers": []}]
    records = scoring.by_length(task, rows, {"teacher": [{"text": "good"}, {"text": ""}]})
    assert list(records) == [
        ("teacher", "f1", "none", 1.0, 1),
        ("teacher", "f1", "2-3", 0.6667, 1),
        ("teacher", "exact_match", "none", 1.0, 1),
        ("teacher", "exact_match", "2-3", 0.0, 1),
    ]


def test_the_summary_names_each_models_score(task):
    line = scoring.summary(task, report(task, wrong_on(), wrong_on(9), wrong_on(*range(9))))
    assert line == (
        "accuracy on test: teacher 1.0000, student 0.9000, student_alone 0.1000; gain +80.0 (40.0 to 100.0);"
        " retention 90.0 %; agreement 0.9000"
    )


def test_resamples_are_drawn_with_replacement_from_all_rows(task, monkeypatch):
    seen = []
    monkeypatch.setattr(
        task, "scorer", lambda rows, predictions: lambda chosen: seen.append(list(chosen)) or {"accuracy": 0.5}
    )
    interval(task, TEN, wrong_on(), resamples=30)
    assert {len(ids) for ids in seen} == {10}
    assert np.mean([len(set(ids)) for ids in seen]) == pytest.approx(10 * (1 - 0.9**10), abs=0.7)
    assert {row for ids in seen for row in ids} == set(range(10))


def test_scores_on_resamples_are_paired_by_the_test_rows_alone(task):
    rows = [{"id": str(number), "text": "a", "label": "positive"} for number in range(50)]
    right, wrong = ["positive"] * 50, ["positive"] * 40 + ["negative"] * 10
    lines = [next(scoring.comparable(task, {"test": (rows, predictions)})) for predictions in (right, wrong)]
    assert lines[0]["digest"] == lines[1]["digest"] and [line["score"] for line in lines] == [1, 0.8]
    found = comparison.compare_scores(*lines)
    assert (found.verdict, round(found.value, 4)) == (comparison.WORSE, -0.2) and found.low < -0.2 < found.high < 0
    assert comparison.compare_scores(*lines[::-1]).verdict == comparison.BETTER
    assert comparison.compare_scores(lines[0], lines[0]).verdict == comparison.SAME
    other = next(scoring.comparable(task, {"test": ([{**row, "label": "negative"} for row in rows], right)}))
    assert comparison.compare_scores(lines[0], other).reason.startswith("the test rows differ: ")


def test_kept_predictions_hold_a_hash_of_each_row_and_no_text(task):
    rows = [
        {"id": "1", "text": "a secret film", "label": "positive"},
        {"id": "2", "text": "a film", "label": "negative"},
    ]
    predictions = {"teacher": ["positive", "negative"], "student": ["negative", "negative"]}
    kept = list(scoring.without_texts(task, rows, predictions, np.array([0.87654321, 0])))
    assert [(row["teacher"], row["student"], row["mistake"]) for row in kept] == [
        ("positive", "negative", 0.8765),
        ("negative", "negative", 0),
    ]
    assert "secret" not in str(kept) and kept[0]["id"] == digest([rows[0]]) != digest([rows[1]])
