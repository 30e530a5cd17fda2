"""What the log, the model card and the review say about the scores."""

import subprocess
import sys

import pytest
import tiny

from pipeline.tinybert.evaluation import verdicts


def scores(value=0.031, low=0.012, high=0.05, teacher_low=0.02, retention=0.9757, **student) -> dict:
    return {
        "teacher": {"accuracy": 0.83},
        "student": student,
        "retention": retention,
        "gain": {"value": value, "low": low, "high": high},
        "teacher_gain": {"value": 0.05, "low": teacher_low, "high": 0.08},
        "test_rows": 74,
    }


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        ((0.031, 0.012, 0.05), "gain +3.1 (1.2 to 5.0)"),
        ((0.02, 0.0, 0.04), "no difference that 74 test rows could show: gain +2.0 (0.0 to 4.0)"),
        ((-0.01, -0.05, 0.03), "no difference that 74 test rows could show: gain -1.0 (-5.0 to 3.0)"),
        ((0.0, 0.0, 0.0), "no difference that 74 test rows could show: gain +0.0 (0.0 to 0.0)"),
        ((-0.124, -0.2, -0.0501), "distillation has not helped: gain -12.4 (-20.0 to -5.0)"),
    ],
)
def test_the_gain_is_called_a_gain_only_if_its_interval_is_above_zero(gain, expected):
    assert verdicts.gain(scores(*gain)) == expected


def test_a_retention_that_says_nothing_is_called_so():
    assert verdicts.retention(scores()) == "retention 97.6 %"
    as_bad = verdicts.retention(scores(teacher_low=0.0, retention=1.01))
    assert as_bad == "retention 101.0 % (means little: the teacher is not measurably better than the baseline)"
    undefined = verdicts.retention(scores(retention=None))
    assert undefined == "retention undefined: the teacher is no better than a trivial predictor on test"


@pytest.mark.parametrize(
    ("gain", "on_validation", "advised"),
    [
        ((0.031, 0.012, 0.05), (0.6, 0.7), False),  # test shows a gain
        ((0.01, -0.02, 0.04), (0.7, 0.7), False),
        ((0.01, -0.02, 0.04), (0.69, 0.7), True),
        ((-0.1, -0.2, -0.05), (0.8, 0.7), True),
    ],
)
def test_a_student_that_gained_nothing_comes_with_what_to_try(gain, on_validation, advised):
    lines = list(verdicts.advice_if_no_gain("films", scores(*gain), *on_validation))
    assert len(lines) == advised
    for line in lines:
        assert f"student {on_validation[0]:.4f}, baseline 0.7000): models/films/student_alone has the same" in line
        for setting in ("min_steps", "learning_rate", "tasks.films.unlabelled", "general_student"):
            assert setting in line


@pytest.mark.parametrize(
    ("student", "doubt"),
    [
        (
            {"confidence": 0.22, "overconfidence": -0.766},
            "the student's probabilities are too low: 22.0 % on average, while 98.6 % are right: train it longer",
        ),
        (
            {"confidence": 0.95, "overconfidence": 0.11},
            "the student's probabilities are too high: 95.0 % on average, while 84.0 % are right: bring more rows",
        ),
        ({"confidence": 0.95, "overconfidence": 0.1}, None),
        ({}, None),  # regression
    ],
)
def test_a_mean_confidence_far_from_the_accuracy_is_doubtful(student, doubt):
    found = list(verdicts.doubts("films", scores(**student), may_know_test=False))
    assert len(found) == bool(doubt) and all(line.startswith(doubt) for line in found)


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_a_handful_of_test_rows_shows_neither_gain_nor_loss(value):
    """Their bootstrap intervals are too narrow: if all rows are alike, so are all resamples."""
    few = scores(value, value, value, retention=1.0, confidence=0.7, overconfidence=0.7) | {"test_rows": 5}
    assert verdicts.gain(few).startswith("no difference that 5 test rows could show")
    assert "means little" in verdicts.retention(few)
    assert not list(verdicts.advice_if_no_gain("films", few, 0.7, 0.7)) and list(
        verdicts.advice_if_no_gain("films", few, 0.6, 0.7)
    )
    assert list(verdicts.doubts("films", few, may_know_test=False)) == [
        "test has too few rows (5) for its scores to mean anything: bring more"
    ]
    assert not verdicts.gain({**few, "test_rows": 6}).startswith("no difference")


def test_scores_on_test_rows_that_the_teacher_may_know_are_doubtful():
    (line,) = verdicts.doubts("films", scores(), may_know_test=True)
    assert "mean nothing" in line and "tasks.films.source.splits" in line


def test_the_verdicts_need_no_library_that_dvc_does_not_bring():
    """The review imports them in an environment with DVC alone."""
    others = {"torch", "numpy", "pydantic", "transformers", "datasets"}
    code = f"import sys, pipeline.tinybert.evaluation.verdicts; print(*{others} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=tiny.ROOT, text=True).split() == []


def test_without_the_teacher_s_predictions_for_test_its_retention_is_unknown():
    known = {name: value for name, value in scores(retention=None).items() if not name.startswith("teacher")}
    assert verdicts.retention(known) == "retention unknown: the teacher's file of predictions lacks test rows"
