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
    monkeypatch.setattr(curves, "SHOWN_AFTER", 0)


@pytest.fixture
def shown_at_the_end(repository, monkeypatch) -> dict[str, list[list[str]]]:
    """What stands where the plots will be as a stage has trained, before it writes its outputs."""
    shown, write = {}, fine_tuning.write_result

    def look(metrics, *rest, **more):
        shown.update(tables(METRICS))
        write(metrics, *rest, **more)

    monkeypatch.setattr(fine_tuning, "write_result", look)
    with resume.stage_folder(STAGE, ["tiny"]):
        tiny.run_stage(STAGE)
    return shown


def test_curves_stand_while_a_stage_trains_where_it_leaves_them_in_the_end(shown_at_the_end):
    left = tables(METRICS)
    assert set(left) == {f"plots/metrics/{name}.tsv" for name in ("loss", "validation_accuracy")}
    assert set(shown_at_the_end) == set(left)
    for name, (header, *points) in left.items():
        assert shown_at_the_end[name][0] == header == ["step", Path(name).stem]
        shown = [[float(value) for value in point] for point in shown_at_the_end[name][1:]]
        assert len(points) > 2
        assert shown == [pytest.approx([float(value) for value in point], rel=1e-5) for point in points]


def test_what_dvclive_writes_beside_its_curves_does_not_stay(shown_at_the_end):
    assert {path.name for path in METRICS.iterdir()} == {"plots", "validation.json"}


def test_dvc_yaml_is_not_rewritten(repository):
    before = Path("dvc.yaml").read_bytes()
    with resume.stage_folder(STAGE, ["tiny"]):
        tiny.run_stage(STAGE)
    assert Path("dvc.yaml").read_bytes() == before
    assert not list(Path("metrics").rglob("dvc.yaml"))


def test_a_short_training_does_not_wait_for_dvclive(repository, monkeypatch):
    monkeypatch.setattr(curves, "SHOWN_AFTER", 60)
    monkeypatch.setattr("dvclive.Live.__init__", lambda *arguments, **more: pytest.fail("started"))
    with resume.stage_folder(STAGE, ["tiny"]):
        tiny.run_stage(STAGE)


def test_curves_that_cannot_be_shown_do_not_stop_the_training(repository, monkeypatch, capsys):
    def no_commit(*arguments, **more):
        raise RuntimeError("Empty git repo")

    monkeypatch.setattr("dvclive.Live.__init__", no_commit)
    with resume.stage_folder(STAGE, ["tiny"]):
        tiny.run_stage(STAGE)
    assert capsys.readouterr().out.count("curves are not shown while they grow: Empty git repo\n") == 1
    assert json.loads((METRICS / "validation.json").read_text())["accuracy"] > 0.8


def test_without_any_curve_the_table_of_the_loss_is_empty(tmp_path):
    curves.write(tmp_path, {})
    assert tables(tmp_path) == {"plots/metrics/loss.tsv": [["step", "loss"]]}


def test_a_curve_has_the_points_of_the_log_that_have_its_value():
    log = [{"step": 1, "loss": 0.5}, {"step": 2, "eval_f1": 0.25}, {"step": 2, "loss": 0.25, "epoch": 1.0}]
    found = curves.of_log(log, {"loss": "loss", "eval_f1": "validation_f1", "hidden": "hidden"})
    assert found == {"loss": [(1, 0.5), (2, 0.25)], "validation_f1": [(2, 0.25)]}
