import csv
import json
from pathlib import Path

import pytest
import tiny

from pipeline.tinybert.core import curves, resume
from pipeline.tinybert.training import fine_tuning

STAGE, METRICS = "finetune_teacher", Path("metrics/tiny/finetune_teacher")


def tables(folder: Path) -> dict[str, list[list[str]]]:
    return {
        path.relative_to(folder).as_posix(): list(csv.reader(path.open(encoding="utf-8"), delimiter="\t"))
        for path in sorted(folder.rglob("*.tsv"))
    }


@pytest.fixture(autouse=True)
def shown_at_once(monkeypatch):
    monkeypatch.setattr(curves, "SECONDS_BEFORE_SHOWN", 0)


def test_curves_are_shown_during_training_where_the_final_ones_will_be_and_dvclive_leaves_nothing_else(
    repository, monkeypatch
):
    shown_before_outputs, write = {}, fine_tuning.write_result

    def look(metrics, *rest, **more):
        shown_before_outputs.update(tables(METRICS))
        write(metrics, *rest, **more)

    monkeypatch.setattr(fine_tuning, "write_result", look)
    stages = Path("dvc.yaml").read_bytes()
    with resume.stage_folder(STAGE, ["tiny"]):
        tiny.run_stage(STAGE)
    left = tables(METRICS)
    assert set(left) == {f"plots/metrics/{name}.tsv" for name in ("loss", "validation_accuracy")}
    assert set(shown_before_outputs) == set(left)
    for name, (header, *points) in left.items():
        assert shown_before_outputs[name][0] == header == ["step", Path(name).stem]
        shown = [[float(value) for value in point] for point in shown_before_outputs[name][1:]]
        assert len(points) > 2
        assert shown == [pytest.approx([float(value) for value in point], rel=1e-5) for point in points]
    assert {path.name for path in METRICS.iterdir()} == {"plots", "validation.json"}
    assert Path("dvc.yaml").read_bytes() == stages
    assert not list(Path("metrics").rglob("dvc.yaml"))


def test_an_interrupt_leaves_the_committed_curves_as_they_were(repository, monkeypatch):
    before = tables(METRICS)
    monkeypatch.setattr(fine_tuning, "write_result", lambda *arguments, **more: 1 / 0)
    tiny.write_params(Path("params.yaml"), **{"finetune_teacher.epochs": 2})
    with pytest.raises(ZeroDivisionError), resume.stage_folder(STAGE, ["tiny"]):
        tiny.run_stage(STAGE)
    assert tables(METRICS) == before
    assert {path.name for path in METRICS.iterdir()} == {"plots", "validation.json"}


def test_a_short_training_does_not_wait_for_dvclive(repository, monkeypatch):
    monkeypatch.setattr(curves, "SECONDS_BEFORE_SHOWN", 60)
    monkeypatch.setattr("dvclive.Live.__init__", lambda *arguments, **more: pytest.fail("started"))
    with resume.stage_folder(STAGE, ["tiny"]):
        tiny.run_stage(STAGE)


def test_curves_that_cannot_be_shown_do_not_stop_the_training(repository, monkeypatch, capsys):
    def no_commit(*arguments, **more):
        raise RuntimeError("Empty git repo")

    monkeypatch.setattr("dvclive.Live.__init__", no_commit)
    with resume.stage_folder(STAGE, ["tiny"]):
        tiny.run_stage(STAGE)
    assert capsys.readouterr().out.count("the curves are not shown during training: Empty git repo\n") == 1
    assert json.loads((METRICS / "validation.json").read_text())["accuracy"] > 0.8


def test_without_any_curve_the_table_of_the_loss_is_empty(tmp_path):
    curves.write(tmp_path, {})
    assert tables(tmp_path) == {"plots/metrics/loss.tsv": [["step", "loss"]]}


def test_points_are_shown_once_each(repository, monkeypatch):
    """Also the points that a resumed run finds in its checkpoint."""
    with resume.stage_folder(STAGE, ["tiny"]):
        live, points = curves.Live(), [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "hidden": 0.125}]
        live.show(points)
        points += [{"step": 2, "validation_f1": 0.75}, {"step": 3, "loss": 0.0625}]
        live.show(points)
        live.show(points)
    assert {name.split("/")[-1]: [row[-1] for row in table] for name, table in tables(METRICS).items()} == {
        "loss.tsv": ["loss", "0.5", "0.25", "0.0625"],
        "hidden.tsv": ["hidden", "0.125"],
        "validation_f1.tsv": ["validation_f1", "0.75"],
    }


def test_outside_a_stage_nothing_is_shown(in_empty_folder):
    curves.Live().show([{"step": 1, "loss": 0.5}])
    assert list(in_empty_folder.iterdir()) == []
