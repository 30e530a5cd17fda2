"""Stages in several processes do what they do in one."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import tiny
from tiny import ROOT, lines, run_stage, start_python

from pipeline.tinybert.core import launch
from pipeline.tinybert.core.errors import UserError

TRAINED = ["finetune_teacher", "distill_intermediate", "distill_prediction", "finetune_student"]
STAGES = ["finetune_teacher", "augment", "distill_intermediate", "distill_prediction", "finetune_student"]
SAME_EACH_TIME = {f"{stage}.dropout": 0 for stage in TRAINED}
FINAL_BATCH_OF_ONE = {"finetune_student.batch_size": 37}  # of 112 rows
EACH_KIND_OF_MEAN = {
    "text_classification": {
        "finetune_teacher.class_weights": True,
        "finetune_teacher.accumulation": 3,
        "finetune_student.accumulation": 4,
        "finetune_student.epochs": 5,
    },
    "named_entities": {"distill_prediction.accumulation": 2},
    "question_answering": {"distill_intermediate.max_rows": 100},  # the logits of the others are computed after it
}


two = partial(start_python, processes=2)


def run_in_two(task: str, *stages: str) -> str:
    """What the stages say."""
    process = two(str(ROOT / "tests" / "run_stages.py"), task, *stages)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return said


@pytest.mark.parametrize("kind", EACH_KIND_OF_MEAN)
def test_two_processes_learn_what_one_does(world, kind):
    changes = {**SAME_EACH_TIME, **FINAL_BATCH_OF_ONE, **EACH_KIND_OF_MEAN[kind]}
    tiny.write_task(world, kind, **changes)
    for stage in ("prepare", "general_student", *STAGES):
        run_stage(stage, kind)
    alone = results(kind)
    run_in_two(kind, *STAGES)
    together = results(kind)
    assert together["rows"] == alone["rows"]
    for name in ("logits", *TRAINED):
        assert together[name].shape == alone[name].shape and len(alone[name]) > 3
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-3, atol=2e-5, err_msg=name)


def results(task: str) -> dict[str, bytes | np.ndarray]:
    """The augmented rows, the teacher's logits in their order, and all losses."""
    curves = {
        stage: np.genfromtxt(Path("metrics", task, stage, "plots", "metrics", "loss.tsv"), skip_header=1)
        for stage in TRAINED
    }
    logits = np.load(Path("data", task, "teacher_logits", "values.npy"))
    if task == "question_answering":  # its loss leaves a constant free, which an optimiser moves by rounding errors
        logits = logits - logits.mean(axis=0)
    return {"rows": Path("data", task, "augmented", "rows.jsonl").read_bytes(), "logits": logits, **curves}


def test_one_process_speaks_and_nothing_is_left_but_outputs(repository):
    before = {path for path in repository.rglob("*") if ".dvc" not in path.parts}
    said = run_in_two("tiny", "finetune_teacher", "augment")
    assert [line.split(":")[0] for line in lines(said)] == [
        "run_stages tiny finetune_teacher augment",
        "teacher",
        "112 training rows augmented to 290 rows",
        "run_stages tiny finetune_teacher augment",
    ]
    assert {path for path in repository.rglob("*") if ".dvc" not in path.parts} == before
    assert not list(repository.glob(".dvc/tmp/scratch/*"))


def test_a_stage_killed_in_two_processes_goes_on_to_the_same_bytes(repository):
    tiny.write_params(repository / "params.yaml", **SAME_EACH_TIME, **{"finetune_teacher.epochs": 12})
    run_in_two("tiny", "finetune_teacher")
    whole = Path("models/tiny/teacher/model.safetensors").read_bytes()
    process = two(str(ROOT / "tests" / "run_stages.py"), "tiny", "finetune_teacher")
    while not list(repository.glob(".dvc/tmp/scratch/*/*/*/checkpoint-*/unlogged.json")):
        assert process.poll() is None
    for child in [*psutil.Process(process.pid).children(), psutil.Process(process.pid)]:
        child.kill()
    process.communicate()
    assert "goes on after step" in run_in_two("tiny", "finetune_teacher")
    assert Path("models/tiny/teacher/model.safetensors").read_bytes() == whole


def test_what_the_user_can_mend_is_said_once(world):
    tiny.write_params(world / "params.yaml", **{"distill_intermediate.layer_map": [1, 9]})
    process = two("-m", "pipeline.distill_intermediate", "tiny")
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1
    (line,) = lines(said)
    assert line.startswith("distill_intermediate: distill_intermediate.layer_map: [1, 9]: expected 2 numbers")


def test_a_process_that_is_killed_ends_all_in_one_line(world):
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.epochs": 1000})
    process = two("-m", "pipeline.finetune_teacher", "tiny")
    while not (children := [*psutil.Process(process.pid).children()][1:]) or process.stdout.readline() == "":
        assert process.poll() is None
    children[-1].kill()
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1
    assert lines(said)[-1].startswith("finetune_teacher: process ")
    assert "was ended by SIGKILL: where memory is short, fewer processes take less" in lines(said)[-1]
    assert not list(world.rglob("*.partial"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_processes_in_one_line(world, number):
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.epochs": 1000})
    process = two("-m", "pipeline.finetune_teacher", "tiny", start_new_session=True)
    assert process.stdout.readline() == "finetune_teacher tiny: starts\n"
    children = psutil.Process(process.pid).children()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1
    assert lines(said)[-1].startswith(f"finetune_teacher: interrupted ({number.name}): no half-written file is left")
    assert said.count("interrupted") == 1 and "Traceback" not in said
    assert not psutil.wait_procs(children, timeout=10)[1]


class TestHowMany:
    @pytest.fixture(autouse=True)
    def no_variable(self, monkeypatch):
        monkeypatch.delenv(launch.VARIABLE, raising=False)

    def test_one_unless_somebody_says_so(self, monkeypatch, tmp_path):
        monkeypatch.setattr(launch, "default_config_file", tmp_path / "none.yaml")
        assert launch._wanted() == 1

    @pytest.mark.parametrize(("kind", "expected"), [("MULTI_GPU", 4), ("MULTI_CPU", 4), ("NO", 1)])
    def test_as_accelerate_is_configured(self, monkeypatch, tmp_path, kind, expected):
        file = tmp_path / "default_config.yaml"
        file.write_text(
            json.dumps({"distributed_type": kind, "num_processes": 4, "compute_environment": "LOCAL_MACHINE"})
        )
        monkeypatch.setattr(launch, "default_config_file", file)
        monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(file))
        assert launch._wanted() == expected

    @pytest.mark.parametrize("text", ["0", "two", "-1", ""])
    def test_the_variable_that_is_no_number_is_refused(self, monkeypatch, text):
        monkeypatch.setenv(launch.VARIABLE, text)
        with pytest.raises(UserError, match=f"{launch.VARIABLE}: '{text}': expected how many processes"):
            launch._wanted()
