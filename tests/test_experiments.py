"""`experiments`: the settings that differ, and few scores."""

import subprocess

import pytest

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


# Results that DVC keeps although the model has changed


def lock(student: str, exported: str, onnx: str, timed: str) -> str:
    """dvc.lock with the hashes of the student, of the one that `export` read, of its output, and of what `benchmark`
    read.
    """
    return f"""
stages:
  distill_prediction@films:
    outs: [{{path: models/films/student, md5: {student}}}]
  evaluate@films:
    deps: [{{path: models/films/student, md5: {student}}}]
  export@films:
    deps: [{{path: pipeline/export.py, md5: aa}}, {{path: models/films/student, md5: {exported}}}]
    outs: [{{path: models/films/onnx, md5: {onnx}}}]
  benchmark@films:
    deps: [{{path: models/films/onnx, md5: {timed}}}]
"""


def commit(text: str) -> str:
    with open("dvc.lock", "w", encoding="utf-8") as file:
        file.write(text)
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for command in (["add", "dvc.lock"], [*identity, "commit", "--quiet", "--message", "Run"]):
        subprocess.run(["git", *command], check=True)
    return subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()


@pytest.mark.parametrize(
    ("hashes", "int8", "milliseconds"),
    [
        (("a", "a", "b", "b"), "0.7500", "1.2000"),
        (("c", "a", "b", "b"), "", ""),  # only `evaluate` ran
        (("c", "c", "d", "b"), "0.7500", ""),  # `export` ran too
    ],
)
def test_scores_and_times_of_another_student_are_blank(tmp_path, monkeypatch, hashes, int8, milliseconds):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    before, after = commit(lock("a", "a", "b", "b")), commit(lock(*hashes) + "# another run\n")
    metrics = {"scores": {"student": {"accuracy": 0.8}}, "export": {"int8": {"accuracy": 0.75}}}
    metrics["benchmark"] = {"student": {"int8": {"p50": 1.2}}}
    data = {"metrics": {f"metrics/films/{name}.json": {"data": report} for name, report in metrics.items()}}
    shown = [{"rev": rev, "name": None, "data": data, "experiments": None} for rev in ("workspace", before)]
    experiment = {"revs": [{"rev": after, "name": "brisk-yolk", "data": data}], "executor": None}
    shown[1]["experiments"] = [experiment]
    titles, here, *others = experiments.table(shown, "films", "accuracy")
    cells = [[dict(zip(titles, line, strict=True))[name] for name in ("student", "int8", "int8 ms")]
             for line in (here, *others)]  # fmt: skip
    assert cells == [["0.8000", int8, milliseconds], ["0.8000", "0.7500", "1.2000"], ["0.8000", int8, milliseconds]]
