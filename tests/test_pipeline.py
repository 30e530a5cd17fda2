"""The whole pipeline by DVC, in a clone of the repository with tiny models and data."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain, product
from pathlib import Path

import boto3
import pytest
import ruamel.yaml
import tiny
import transformers
from moto.server import ThreadedMotoServer
from tiny import COMMON, OF_ALL, PER_TASK, ROOT, set_value

STAGES = [*COMMON, *(f"{stage}@tiny" for stage in PER_TASK), *OF_ALL]
IDENTITY = {"user.name": "A Tester", "user.email": "tester@example.org", "init.defaultBranch": "main"}


class Clone:
    """A clone of the repository; calling it runs a command there."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "DVC_SITE_CACHE_DIR": str(folder.parent / "dvc"),
            "COLUMNS": "200",
        }

    def __call__(self, *command: str) -> str:
        """Run a command that must succeed; return its output."""
        process = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.returncode == 0, f"{' '.join(command)}: {process.returncode}:\n{process.stdout[-4000:]}"
        return process.stdout

    def commit(self, message: str) -> None:
        self("git", "add", "--all")
        self("git", "commit", "--quiet", "--message", message)

    def read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def files(self, name: str) -> list[str]:
        """The files in a folder, or the file itself."""
        paths = [self.folder / name, *(self.folder / name).rglob("*")]
        return [path.relative_to(self.folder).as_posix() for path in paths if path.is_file()]

    def settings(self) -> dict:
        return ruamel.yaml.YAML(typ="safe", pure=True).load(self.read("params.yaml"))

    def queue(self) -> dict[str, str]:
        """Name → state of the queued experiments."""
        rows = [line.split() for line in self("dvc", "queue", "status").splitlines()]
        return {row[1]: row[-1] for row in rows if row and row[-1] in ("Queued", "Running", "Success", "Failed")}

    def experiments(self) -> set[str]:
        """The names of the finished experiments; "failed" if one has failed, and others of DVC's own."""
        refs = self("git", "for-each-ref", "--format=%(refname:lstrip=-1)", "refs/exps")
        return set(refs.split())

    def run_queue(self) -> dict[str, str]:
        """Run all queued experiments; return name → state of every experiment queued so far."""
        self("dvc", "queue", "start", "-j", "1")
        deadline, names = time.monotonic() + 300, set(self.queue())
        while not (names <= (refs := self.experiments()) or "failed" in refs) and time.monotonic() < deadline:
            time.sleep(1)  # git is asked because it answers in no time, and DVC in seconds
        while set((states := self.queue()).values()) != {"Success"}:
            assert "Failed" not in states.values(), states
            assert time.monotonic() < deadline, states
            time.sleep(1)
        return states


def ran(printed: str) -> list[str]:
    return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage '")]


@pytest.fixture(scope="module")
def fresh_clone(tmp_path_factory) -> Clone:
    """A clone with the working tree's files, tiny models and data, and no results; all committed."""
    clone = Clone(tmp_path_factory.mktemp("clone") / "repository")
    subprocess.run(["git", "clone", "--quiet", ROOT, clone.folder], check=True)
    for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
        if (ROOT / name).is_file():  # uncommitted changes are tested too
            shutil.copy(ROOT / name, clone.folder / name)
    (clone.folder / "dvc.lock").unlink(missing_ok=True)
    shutil.rmtree(clone.folder / "metrics", ignore_errors=True)
    tiny.write_world(clone.folder)
    for key, value in IDENTITY.items():
        clone("git", "config", key, value)
    clone.commit("Tiny models and data")
    return clone


@pytest.fixture(scope="module")
def clone(fresh_clone) -> Clone:
    """The clone after ``dvc repro``, all committed."""
    fresh_clone.printed = fresh_clone("dvc", "repro")
    fresh_clone.changed = fresh_clone("git", "status", "--porcelain", "--untracked-files=all").splitlines()
    fresh_clone.commit("Run")
    return fresh_clone


TIMED = ("benchmark", "package", "release", "summary")  # outputs that contain measured times


def outputs(dvc_yaml: str) -> dict[str, list[str]]:
    """The tiny task's outputs in dvc.yaml, by who tracks them: dvc or git."""
    paths: dict[str, list[str]] = {"dvc": [], "git": []}
    stages = ruamel.yaml.YAML(typ="safe", pure=True).load(dvc_yaml.replace("${item.task}", "tiny"))["stages"]
    for stage, kind in product(stages.values(), ("outs", "metrics", "plots")):
        for entry in stage.get(kind, []):
            [(path, options)] = entry.items() if isinstance(entry, dict) else [(entry, {})]
            paths["dvc" if options.get("cache", True) else "git"].append(path)
    return paths


def plots(dvc_yaml: str) -> dict[str, str]:
    """Path and title of every plot, for the tiny task."""
    stages = ruamel.yaml.YAML(typ="safe", pure=True).load(dvc_yaml.replace("${item.task}", "tiny"))["stages"]
    entries = chain.from_iterable(stage.get("plots", []) for stage in stages.values())
    return {path: options["title"] for entry in entries for path, options in entry.items()}


def test_every_stage_runs_once(clone):
    assert ran(clone.printed) == STAGES


def test_every_output_exists(clone):
    for path in chain.from_iterable(outputs(clone.read("dvc.yaml")).values()):
        assert (clone.folder / path).exists(), path


def test_git_sees_only_the_lock_metrics_and_plots(clone):
    expected = ["dvc.lock", *chain.from_iterable(map(clone.files, outputs(clone.read("dvc.yaml"))["git"]))]
    assert sorted(line.removeprefix("?? ") for line in clone.changed) == sorted(expected)


def test_git_is_clean_after_the_commit(clone):
    assert clone("git", "status", "--porcelain", "--untracked-files=all") == ""


def test_scores_contain_three_models_and_how_they_compare(clone):
    scores = json.loads(clone.read("metrics/tiny/scores.json"))
    models = ("teacher", "student", "student_alone")
    assert set(scores) == {*models, "retention", "agreement", "gain", "teacher_gain", "test_rows"}
    calibration = ("calibration_error", "confidence", "overconfidence")
    for model in models:
        assert set(scores[model]) == {"accuracy", "macro_f1", "mcc", "f1", "low", "high", *calibration}
        assert scores[model]["low"] <= scores[model]["accuracy"] <= scores[model]["high"]
    assert scores["teacher"]["accuracy"] > 0.8
    assert scores["student"]["accuracy"] > 0.8
    assert scores["retention"] == pytest.approx(scores["student"]["accuracy"] / scores["teacher"]["accuracy"], abs=1e-4)


@pytest.mark.parametrize("model", ["teacher", "student", "student_alone"])
def test_models_load_in_a_transformers_pipeline(clone, model):
    classify = transformers.pipeline("text-classification", model=str(clone.folder / "models" / "tiny" / model))
    answers = [classify(f"The film was {word} .")[0]["label"] for word in ("great", "lovely", "awful", "dull")]
    assert answers == ["positive", "positive", "negative", "negative"]


def test_another_run_in_another_folder_gives_the_same_bytes(clone, finished_world):
    """Except outputs that contain measured times."""
    for path in chain.from_iterable(outputs(clone.read("dvc.yaml")).values()):
        if not any(word in path for word in TIMED):
            assert contents(clone.folder / path) == contents(finished_world / path), path


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files if file.name != ".gitignore"}


def test_a_second_repro_runs_nothing(clone):
    assert ran(clone("dvc", "repro")) == []


@pytest.fixture
def edited(clone):
    """``edited(name, change)``: change a file of the clone until the test ends."""
    originals = {}

    def edit(name: str, change: Callable[[str], str]) -> None:
        path = clone.folder / name
        originals.setdefault(path, path.read_bytes())
        changed = change(clone.read(name))
        assert changed != clone.read(name)
        path.write_text(changed, encoding="utf-8")

    yield edit
    for path, content in originals.items():
        path.write_bytes(content)


def test_an_experiment_runs_only_the_stages_that_depend_on_it(clone):
    """Up to `evaluate`; test_changes.py has all. ``-S`` accepts numbers in exponent form, and `dvc metrics diff` shows
    the effect.
    """
    settings = [f"distill_prediction.{value}" for value in ("temperature=2e0", "learning_rate=1e-9")]
    printed = clone("dvc", "exp", "run", "-S", settings[0], "-S", settings[1], "evaluate@tiny")
    try:
        assert ran(printed) == ["distill_prediction@tiny", "evaluate@tiny"]
        assert clone.settings()["distill_prediction"]["temperature"] == 2.0
        difference = json.loads(clone("dvc", "metrics", "diff", "--json"))
        student = difference["metrics/tiny/scores.json"]["student.accuracy"]
        assert student["old"] > 0.8 > student["new"]
    finally:
        clone("git", "checkout", "--quiet", ".")
        clone("dvc", "checkout", "--quiet")


def test_an_interrupted_run_can_be_run_again(clone, edited):
    lock, params = clone.read("dvc.lock"), clone.read("params.yaml")
    edited("params.yaml", set_value("finetune_teacher.epochs", 100_000))
    process = subprocess.Popen(
        ["dvc", "repro"],
        cwd=clone.folder,
        env=clone.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    printed = ""
    while "validation_accuracy" not in printed:
        assert (character := process.stdout.read(1)), printed
        printed += character
    os.killpg(process.pid, signal.SIGINT)  # like Ctrl-C in a terminal: DVC and the stage both get it
    printed, _ = process.communicate(timeout=10)
    assert process.returncode != 0
    assert "finetune_teacher: interrupted (SIGINT): no half-written file is left" in printed
    assert "Traceback" not in printed
    edited("params.yaml", lambda text: params)
    clone("dvc", "repro")
    assert clone.read("dvc.lock") == lock
    assert clone("git", "status", "--porcelain", "--untracked-files=all") == ""


ABLATION = "without prediction loss"
TABLE_OF_ABLATIONS = ("python", "benchmarks/ablations.py", "tiny", "--rows", ABLATION)


@pytest.fixture(scope="module")
def finished(clone) -> tuple[set[str], set[str]]:
    """Experiments that were queued and then run: the names of two with other resamples, and of an ablation."""
    clone("dvc", "exp", "run", "--queue", "-S", "evaluate.resamples=11,12", "evaluate@tiny")
    resampled = set(clone.queue())
    clone(*TABLE_OF_ABLATIONS, "--queue", "--seeds", str(clone.settings()["seed"]))
    return resampled, clone.run_queue().keys() - resampled


def test_queued_experiments_can_be_compared(clone, finished):
    names, _ = finished
    assert len(names) == 2
    for name in names:
        assert ran(clone("dvc", "queue", "logs", name)) == ["evaluate@tiny"]
    table = list(csv.DictReader(io.StringIO(clone("dvc", "exp", "show", "--csv"))))
    done = [row for row in table if row["State"] == "Success"]
    assert {row["evaluate.resamples"] for row in done} >= {"11", "12"}
    assert all(float(row["student.accuracy"]) > 0.8 for row in done)


def test_an_ablation_runs_as_an_experiment_and_becomes_a_row_of_the_table(clone, finished):
    _, [name] = finished
    assert ran(clone("dvc", "queue", "logs", name)) == ["distill_prediction@tiny", "evaluate@tiny"]
    table = clone(*TABLE_OF_ABLATIONS).splitlines()
    [shown] = [line.split(" | ") for line in table if line.startswith(f"| {ABLATION} ")]
    assert shown[1] == "1" and float(shown[2]) > 80 and float(shown[4]) > 80


@pytest.fixture
def s3(monkeypatch) -> Iterator[tuple[str, str]]:
    """A local S3 server with one bucket: a folder there, and the server's address."""
    keys = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="bucket")
    yield "s3://bucket/path", address
    server.stop()


def test_a_colleague_pulls_the_outputs_from_s3_and_runs_nothing(clone, s3, tmp_path):
    url, address = s3
    colleague = Clone(tmp_path / "colleague")
    subprocess.run(["git", "clone", "--quiet", clone.folder, colleague.folder], check=True)
    for one in (clone, colleague):
        one.environment |= {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
        one("dvc", "remote", "add", "--local", "--force", "--default", "storage", url)
        one("dvc", "remote", "modify", "--local", "storage", "endpointurl", address)
    clone("dvc", "push")
    colleague("dvc", "pull")
    for path in clone.files("models/tiny/release"):
        assert (colleague.folder / path).read_bytes() == (clone.folder / path).read_bytes()
    shutil.copytree(clone.folder / "data" / "raw", colleague.folder / "data" / "raw", dirs_exist_ok=True)
    assert ran(colleague("dvc", "repro")) == []


def test_plots_are_drawn(clone):
    clone("dvc", "plots", "show")
    page = clone.read("dvc_plots/index.html")
    for path, title in plots(clone.read("dvc.yaml")).items():
        # A general student without training (start: layers or checkpoint) has no curve.
        drawn = any(len(clone.read(file).splitlines()) > 1 for file in clone.files(path))
        assert (title in page) == drawn, path
    assert sum(title in page for title in plots(clone.read("dvc.yaml")).values()) >= 9
    assert clone("git", "status", "--porcelain") == ""
