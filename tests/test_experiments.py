"""`experiments`: the settings that differ, and few scores."""

from pipeline import experiments


def data(rate: float | None, accuracy: float | None) -> dict:
    scores = {"student": {"accuracy": accuracy, "macro_f1": 0.1}, "gain": {"value": 0.02}, "retention": None}
    metrics = {"metrics/films/scores.json": {"data": scores}} if accuracy else {}
    params = {"data": {"seed": 1, "distill": {"rate": rate}}}
    return {"params": {"params.yaml": params}, "metrics": metrics}


def entry(name: str | None, rate: float, accuracy: float | None, state: str | None = None) -> dict:
    revision = {"rev": "0123456789abcdef", "name": name, "data": data(rate, accuracy)}
    return {"revs": [revision], "executor": {"state": state} if state else None, "name": name}


SHOWN = [
    {"rev": "workspace", "name": None, "data": data(0.1, 0.8), "experiments": None},
    {"rev": "ab" * 20, "name": "main", "data": data(0.1, 0.8), "experiments": [
        entry("brisk-yolk", 0.2, 0.9), entry(None, 0.3, None, "queued")]},
]  # fmt: skip


def test_the_table_has_the_settings_that_differ_and_at_most_eight_scores():
    titles, *lines = experiments.table(SHOWN, "films", "accuracy")
    assert titles == ["experiment", "distill.rate", *experiments.SCORES] and len(experiments.SCORES) <= 8
    rows = [dict(zip(titles, line, strict=True)) for line in lines]
    assert [row["experiment"] for row in rows] == ["workspace", "main", "  brisk-yolk", "  012345678 (queued)"]
    assert [row["distill.rate"] for row in rows] == ["0.1", "0.1", "0.2", "0.3"]
    assert [row["student"] for row in rows] == ["0.8000", "0.8000", "0.9000", ""]
    assert [row["retention"] for row in rows] == [""] * 4 and rows[0]["gain"] == "0.0200"


def test_columns_are_aligned():
    lines = list(experiments.aligned(experiments.table(SHOWN, "films", "accuracy")))
    assert {line.find("0.") for line in lines[1:]} == {lines[0].index("distill.rate")}
