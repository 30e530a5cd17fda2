"""Compare the same task's models of two runs: scores on the same resamples of the test rows, and times.

The review runs with DVC's libraries only, so this module imports only the standard library.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from pipeline.tinybert.evaluation.verdicts import FEWEST_ROWS

BETTER, WORSE, SAME = "better", "worse", "no difference"
NEW, IMPOSSIBLE = "new", "cannot be compared"


@dataclass(frozen=True)
class Comparison:
    """``value``: the score after minus the score before; ``low`` and ``high``: its 95 % interval."""

    verdict: str
    value: float = 0.0
    low: float = 0.0
    high: float = 0.0
    reason: str = ""  # why the scores cannot be compared

    def fails(self, tolerance: float) -> bool:
        """Whether the model is measurably worse, and by more than ``tolerance``; or nobody can tell."""
        return self.verdict == IMPOSSIBLE or (self.verdict == WORSE and -self.value > tolerance)


def compare_scores(before: dict, after: dict) -> Comparison:
    """Compare two lines of ``resampled/*.jsonl`` (see `scoring.comparable`) by a paired bootstrap.

    Both were scored on the same resamples, so each pair of scores differs by the models alone.
    """
    for key, what in (
        ("metric", "the metric differs"),
        ("rows", "the number of test rows differs"),
        ("digest", "the test rows differ"),
    ):
        if before[key] != after[key]:
            return impossible(f"{what}: {before[key]} before, {after[key]} now")
    differences = [new - old for old, new in zip(before["resampled"], after["resampled"], strict=True)]
    low, *_, high = statistics.quantiles(differences, n=40, method="inclusive")  # 2.5 % and 97.5 %
    shown = before["rows"] >= FEWEST_ROWS
    verdict = BETTER if low > 0 and shown else WORSE if high < 0 and shown else SAME
    return Comparison(verdict, after["score"] - before["score"], low, high)


def impossible(reason: str) -> Comparison:
    return Comparison(IMPOSSIBLE, reason=reason)


def compare_times(before: dict, after: dict) -> tuple[float, float, float]:
    """The time after divided by the time before, and the lowest and highest ratio that the spread within both runs
    allows: from the median of one to the 95th percentile of the other.
    """
    return after["p50"] / before["p50"], after["p50"] / before["p95"], after["p95"] / before["p50"]
