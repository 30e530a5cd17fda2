"""The results of all tasks at a glance. This module imports only the standard library."""

from __future__ import annotations

import statistics

# Measures whose mean over tasks makes sense; those of scores and times depend on the metrics and lengths of the tasks.
AVERAGED = ("gain", "retention", "agreement")


def of_task(metric: str, scores: dict, export: dict, benchmark: dict) -> dict[str, str | float | None]:
    """The few numbers of a task that a reader looks at first.

    ``scores``, ``export``, ``benchmark``: the reports of these names. Size and latency are those of the int8 file.
    """
    int8 = benchmark["student"]["int8"]
    return {
        "metric": metric,
        "score": scores["student"][metric],
        "int8_score": export["int8"][metric],
        "gain": scores["gain"]["value"],
        "retention": scores["retention"],
        "agreement": scores["agreement"],
        "megabytes": int8["megabytes"],
        "milliseconds": int8["p50"],
        "times_faster": int8["times_faster"],
    }


def mean(tasks: list[dict]) -> dict[str, int | float | None]:
    """The number of tasks, the means of ``AVERAGED`` and of the score if all tasks have the same metric, and the
    geometric mean of ``times_faster``. A mean is None if a task has no such value.
    """
    names = [*AVERAGED, *(["score", "int8_score"] if len({task["metric"] for task in tasks}) == 1 else [])]
    columns = {name: [task[name] for task in tasks] for name in names}
    means = {name: None if None in values else round(statistics.fmean(values), 4) for name, values in columns.items()}
    faster = statistics.geometric_mean([task["times_faster"] for task in tasks])
    return {"tasks": len(tasks), **means, "times_faster": round(faster, 2)}
