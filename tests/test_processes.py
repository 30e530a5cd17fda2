"""Stages in several processes do what they do in one."""

import contextlib
import os
import shutil
import signal
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import psutil
import pytest
import tiny
from tiny import ROOT, lines, run_stage, start_python

from pipeline.tinybert.core import launch
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import STAGES_A_TASK_MAY_CHANGE

TRAINED = ["finetune_teacher", "distill_intermediate", "distill_prediction", "finetune_student"]
STAGES = ["finetune_teacher", "augment", "distill_intermediate", "distill_prediction", "finetune_student"]
SAME_EACH_TIME = {f"{stage}.dropout": 0 for stage in TRAINED}
FINAL_BATCH_OF_ONE = {"finetune_student.batch_size": 37}  # of 112 rows
EACH_KIND_OF_MEAN = {  # kind → what its task changes
    "text_classification": {
        "finetune_teacher": {"class_weights": True, "accumulation": 3},
        "finetune_student": {"accumulation": 4, "epochs": 5},
    },
    "named_entities": {"distill_prediction": {"accumulation": 2}},
    "question_answering": {"distill_intermediate": {"max_rows": 100}},  # the logits of the others are computed after it
}


two = partial(start_python, processes=2)


def run_in_two(tasks: str, *stages: str) -> str:
    """What the stages say."""
    process = two(str(ROOT / "tests" / "run_stages.py"), tasks, *stages)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return said


@pytest.fixture(scope="module")
def learned(finished_world, tmp_path_factory) -> dict[str, tuple[dict, dict]]:
    """Kind → the results of one process and of two, which take all kinds in turn."""
    folder = shutil.copytree(finished_world, tmp_path_factory.mktemp("learned") / "world")
    tasks = {
        kind: {**tiny.write_kind(folder, kind), **dict.fromkeys(STAGES_A_TASK_MAY_CHANGE), **changes}
        for kind, changes in EACH_KIND_OF_MEAN.items()
    }
    tiny.write_params(folder / "params.yaml", run=[*tasks], tasks=tasks, **SAME_EACH_TIME, **FINAL_BATCH_OF_ONE)
    with contextlib.chdir(folder):
        for kind, stage in product(tasks, ("prepare", "general_student", *STAGES)):
            run_stage(stage, kind)
        alone = {kind: results(kind) for kind in tasks}
        for kind, stage in product(tasks, STAGES):
            tiny.delete_outputs(stage, kind)
        run_in_two(",".join(tasks), *STAGES)
        return {kind: (alone[kind], results(kind)) for kind in tasks}


@pytest.mark.parametrize("kind", EACH_KIND_OF_MEAN)
def test_two_processes_learn_what_one_does(learned, kind):
    alone, together = learned[kind]
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


@pytest.fixture(scope="module")
def finished_in_two(finished_world, tmp_path_factory) -> tuple[Path, set[Path], str]:
    """A repository where two processes have run two stages; its paths before that, and what was said."""
    folder = shutil.copytree(finished_world, tmp_path_factory.mktemp("in_two") / "repository")
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / ".dvc").mkdir()
    tiny.write_params(folder / "params.yaml", **SAME_EACH_TIME)
    before = {path for path in folder.rglob("*") if ".dvc" not in path.parts}
    with contextlib.chdir(folder):
        for stage in ("finetune_teacher", "augment"):
            tiny.delete_outputs(stage)
        return folder, before, run_in_two("tiny", "finetune_teacher", "augment")


def test_one_process_speaks_and_nothing_is_left_but_outputs(finished_in_two):
    folder, before, said = finished_in_two
    assert [line.split(":")[0] for line in lines(said)] == [
        "run_stages tiny finetune_teacher augment",
        "learning rate 0.004",
        "calibrated on 16 rows of validation",
        "teacher",
        "112 training rows augmented to 290 rows (originals and variants)",
        "run_stages tiny finetune_teacher augment",
    ]
    assert {path for path in folder.rglob("*") if ".dvc" not in path.parts} == before
    assert not list(folder.glob(".dvc/tmp/scratch/*"))


def test_a_stage_killed_in_two_processes_resumes_to_the_same_bytes(finished_in_two, repository, monkeypatch):
    tiny.write_params(repository / "params.yaml", **SAME_EACH_TIME)
    tiny.delete_outputs("finetune_teacher")
    monkeypatch.setenv("CHECKPOINT_EACH_STEP", "1")
    process = two(str(ROOT / "tests" / "run_stages.py"), "tiny", "finetune_teacher")
    while not list(repository.glob(".dvc/tmp/scratch/*/*/*/checkpoint-*")):
        assert process.poll() is None
        time.sleep(0.02)
    for child in [*psutil.Process(process.pid).children(), psutil.Process(process.pid)]:
        child.kill()
    process.communicate()
    monkeypatch.delenv("CHECKPOINT_EACH_STEP")
    assert not Path("models/tiny/teacher").exists()
    assert "resumes after step" in run_in_two("tiny", "finetune_teacher")
    weights = Path("models/tiny/teacher/model.safetensors")
    assert weights.read_bytes() == (finished_in_two[0] / weights).read_bytes()


def test_what_the_user_can_mend_is_said_once(world):
    tiny.write_params(world / "params.yaml", **{"distill_intermediate.layer_map": [1, 9]})
    process = two("-m", "pipeline.distill_intermediate", "tiny")
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1
    assert len(lines(said)) == 1, said
    [line] = lines(said)
    assert line.startswith("distill_intermediate: distill_intermediate.layer_map: [1, 9]: expected 2 numbers")


def test_a_process_that_is_killed_ends_all_in_one_line(world):
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.epochs": 1000})
    process = two("-m", "pipeline.finetune_teacher", "tiny")
    assert process.stdout.readline() == "finetune_teacher tiny: starts\n"
    psutil.Process(process.pid).children()[-1].kill()
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1
    assert lines(said)[-1].startswith(
        "finetune_teacher: process 2 was killed by SIGKILL: if memory is short, start fewer"
    )
    assert "Traceback" not in said
    assert not list(world.rglob("*.partial"))


def test_processes_end_when_their_launcher_is_killed(world):
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.epochs": 100_000})
    process = two("-m", "pipeline.finetune_teacher", "tiny")
    assert process.stdout.readline() == "finetune_teacher tiny: starts\n"
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    process.kill()
    assert not psutil.wait_procs(children, timeout=30)[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_processes_in_one_line(world, number):
    tiny.write_params(world / "params.yaml", **{"finetune_teacher.epochs": 1000})
    process = two("-m", "pipeline.finetune_teacher", "tiny", start_new_session=True)
    assert process.stdout.readline() == "finetune_teacher tiny: starts\n"
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1
    assert lines(said)[-1].startswith(f"finetune_teacher: interrupted ({number.name}): no half-written file is left")
    assert said.count("interrupted") == 1 and "Traceback" not in said
    assert not psutil.wait_procs(children, timeout=10)[1]


TWO_NODES = """
import subprocess, sys
agents = [
    subprocess.Popen(
        ["torchrun", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:29517",
         "--rdzv-id=two-nodes", *sys.argv[1:]]
    )
    for _ in range(2)
]
sys.exit(max(agent.wait() for agent in agents))
"""


@pytest.mark.parametrize("launcher", ["accelerate", "two nodes"])
def test_a_stage_runs_under_the_launcher_that_the_environment_names(world, monkeypatch, launcher):
    """Two torchrun agents that meet by rendezvous are what two nodes run."""
    alone = np.genfromtxt("metrics/tiny/finetune_teacher/plots/metrics/loss.tsv", skip_header=1)
    tiny.delete_outputs("finetune_teacher")
    (world / "two_nodes.py").write_text(TWO_NODES)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    commands = {
        "accelerate": "accelerate launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no"
        " --dynamo_backend no",
        "two nodes": f"{sys.executable} two_nodes.py",
    }
    monkeypatch.setenv(launch.COMMAND, commands[launcher])
    process = start_python("-m", "pipeline.finetune_teacher", "tiny")
    printed, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert printed.count("finetune_teacher tiny: done") == 1
    together = np.genfromtxt("metrics/tiny/finetune_teacher/plots/metrics/loss.tsv", skip_header=1)
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=2e-5)
    # Sums over two processes are rounded in another order. On CPUs, accelerate's launcher starts one process.
    assert np.array_equal(together, alone) == (launcher == "accelerate")


def test_a_number_of_processes_starts_torchrun_as_the_environment_could(monkeypatch):
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv(launch.PROCESSES, "2")
    started = launch._launcher()
    monkeypatch.setenv(launch.COMMAND, "torchrun --standalone --nproc-per-node=2")
    assert launch._launcher() == started == ["torchrun", "--standalone", "--nproc-per-node=2"]


def test_a_launcher_that_cannot_be_started_is_an_error_that_names_it():
    message = "TINYBERT_LAUNCH: no-such-launcher cannot be started: No such file or directory"
    with pytest.raises(UserError, match=f"^{message}$"):
        launch._launch("no-such-launcher", "--fast")


@pytest.mark.parametrize("text", ["0", "two", "-1", ""])
def test_a_number_of_processes_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv(launch.PROCESSES, text)
    with pytest.raises(UserError, match=f"{launch.PROCESSES}: '{text}': expected a number of processes"):
        launch._launcher()


def test_a_stage_runs_on_one_process_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv(launch.PROCESSES)
    assert launch._launcher() is None
