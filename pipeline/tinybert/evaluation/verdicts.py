"""The scores of scores.json in words. The log of `evaluate`, the model card and the review use the same words.

The review runs with DVC's libraries only, so this module imports only the standard library.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# With fewer test rows, chance is not excluded even if one model is right and the other wrong on all of them (by the
# sign test). The bootstrap does not see this: if all rows are alike, so are all resamples.
FEWEST_ROWS = 6
STUDENT_STAGES = ("distill_prediction", "finetune_student")  # the stages that train student and baseline
MAX_CALIBRATION_GAP = 0.1  # a mean confidence that differs from the accuracy by more than this is doubtful
ADVICE_IF_UNDERCONFIDENT = "train it longer (distill_prediction.min_steps or epochs)"
ADVICE_IF_OVERCONFIDENT = "bring more rows or unlabelled text, and do not rely on a high probability"


def gain(scores: dict) -> str:
    """The gain of distillation on test and its 95 % interval, in points (hundredths)."""
    value, low, high = (100 * scores["gain"][key] for key in ("value", "low", "high"))
    numbers = f"gain {value:+z.1f} ({low:z.1f} to {high:z.1f})"
    if is_above_zero(scores, "gain"):
        return numbers
    if is_below_zero(scores, "gain"):
        return f"distillation has not helped: {numbers}"
    return f"no difference that {scores['test_rows']} test rows could show: {numbers}"


def is_above_zero(scores: dict, key: str) -> bool:
    """Whether the test rows show that the difference under ``key`` is positive."""
    return scores[key]["low"] > 0 and scores["test_rows"] >= FEWEST_ROWS


def is_below_zero(scores: dict, key: str) -> bool:
    return scores[key]["high"] < 0 and scores["test_rows"] >= FEWEST_ROWS


def retention(scores: dict) -> str:
    """Retention on test in percent, and whether it means anything."""
    if "teacher" not in scores:
        return "retention unknown: the teacher's file of predictions lacks test rows"
    if scores["retention"] is None:
        return "retention undefined: the teacher is no better than a trivial predictor on test"
    doubt = ""
    if not is_above_zero(scores, "teacher_gain"):
        doubt = " (means little: the teacher is not measurably better than the baseline)"
    return f"retention {100 * scores['retention']:.1f} %{doubt}"


def all_doubts(name: str, scores: dict, may_know_test: bool, on_validation: Sequence[float | None]) -> list[str]:
    """Reasons to doubt the scores, and advice if distillation has not helped.

    ``on_validation``: the scores of `STUDENT_STAGES`; None if they are not known.
    """
    student, baseline = on_validation
    unhelpful = [] if student is None or baseline is None else advice_if_no_gain(name, scores, student, baseline)
    return [*unhelpful, *doubts(name, scores, may_know_test)]


def doubts(name: str, scores: dict, may_know_test: bool) -> Iterator[str]:
    """The reasons why the scores of task ``name`` are doubtful. ``may_know_test``: whether its teacher may have been
    trained on the test rows.
    """
    if may_know_test:
        yield (
            "the scores mean nothing if your teacher (finetune_teacher.checkpoint) was trained on the test rows, which"
            f" are split off at random: name a file that it has not seen as `test` in tasks.{name}.source.splits"
        )
    if scores["test_rows"] < FEWEST_ROWS:
        yield f"test has too few rows ({scores['test_rows']}) for its scores to mean anything: bring more"
        return
    student = scores["student"]
    over = student.get("overconfidence", 0)  # regression has no probabilities
    if abs(over) > MAX_CALIBRATION_GAP:
        confidence, right = 100 * student["confidence"], 100 * (student["confidence"] - over)
        yield (
            f"the student's probabilities are too {'high' if over > 0 else 'low'}: {confidence:.1f} % on average, while"
            f" {right:.1f} % are right: {ADVICE_IF_OVERCONFIDENT if over > 0 else ADVICE_IF_UNDERCONFIDENT}"
        )


def advice_if_no_gain(name: str, scores: dict, student: float, baseline: float) -> Iterator[str]:
    """Advice if distillation has not helped: on test, or on validation if the interval on test contains 0.

    ``student`` and ``baseline``: their scores on validation.
    """
    is_unclear = not is_above_zero(scores, "gain")
    if is_below_zero(scores, "gain") or (is_unclear and student < baseline):
        yield (
            f"distillation has not helped (on validation: student {student:.4f}, baseline {baseline:.4f}):"
            f" models/{name}/student_alone has the same size and may be better. Try more steps"
            " (distill_prediction.min_steps or epochs), other values of distill_prediction.learning_rate, unlabelled"
            f" text (tasks.{name}.unlabelled) or a larger student (general_student)"
        )
