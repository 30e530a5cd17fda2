"""`.github/review.py` on real clones: of a DVC project with one stage, and of this one."""

import functools
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ruamel.yaml
from test_changes import OTHER, SCORES, TASK, expand, further_line
from test_changes import repository as recorded  # noqa: F401  (a fixture)
from tiny import ROOT, set_value

from pipeline.tinybert.evaluation import comparison

REVIEW = ROOT / ".github" / "review.py"
STAGES = """
stages:
  evaluate:
    cmd: python evaluate.py
    params: [rate]
    deps: [evaluate.py, data.txt]
    outs:
      - model.txt
      - metrics/films/resampled/student.jsonl: {cache: false}
    metrics:
      - metrics/films/scores.json: {cache: false}
    plots:
      - metrics/films/loss.csv: {cache: false}
"""
EVALUATE = """
import json, os, random, re
rate = float(re.search(r"rate: (.*)", open("params.yaml").read())[1])
open("model.txt", "w").write(str(rate))
accuracy, retention = 1 - rate, 0.9 if rate < 0.6 else None
student = {"accuracy": accuracy, "low": 0.1, "calibration_error": accuracy, "confidence": accuracy}
scores = {"student": student, "retention": retention, "teacher": {"accuracy": accuracy}, "test_rows": 74}
scores["gain"] = scores["teacher_gain"] = {"value": 0.5 - rate, "low": 0.4 - rate, "high": 0.6 - rate}
json.dump(scores, open("metrics/films/scores.json", "w"))
draw, right = random.Random(1), [row >= 64 * rate for row in range(64)]
means = [sum(draw.choices(right, k=64)) / 64 for _ in range(200)]
line = {"part": "test", "metric": "accuracy", "rows": 64, "digest": "aa", "score": accuracy, "resampled": means}
os.makedirs("metrics/films/resampled", exist_ok=True)
json.dump(line, open("metrics/films/resampled/student.jsonl", "w"))
open("metrics/films/loss.csv", "w").write(f"step,loss\\n1,{rate}\\n")
"""


def params(rate: str) -> str:
    return f"rate: {rate}\nreview: {{tolerance: 0.02}}\n"


def run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def do(folder: Path, *command: str) -> None:
    done = run(folder, *command)
    assert done.returncode == 0, done.stderr


def commit(folder: Path, message: str) -> None:
    do(folder, "git", "add", "--all")
    do(folder, "git", "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", message)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A repository; its branch main holds a finished run."""
    folder = tmp_path_factory.mktemp("project") / "project"
    (folder / "metrics" / "films").mkdir(parents=True)
    do(folder, "git", "init", "--quiet", "--initial-branch", "main")
    do(folder, "dvc", "init", "--quiet")
    files = {"dvc.yaml": STAGES, "evaluate.py": EVALUATE, "params.yaml": params("0.25"), "data.txt": "films\n"}
    for name, content in files.items():
        (folder / name).write_text(content)
    do(folder, "dvc", "repro", "--quiet")
    commit(folder, "First")
    return folder


@pytest.fixture
def branch(project, tmp_path) -> Path:
    """A clone without DVC's cache, on a new branch."""
    do(tmp_path, "git", "clone", "--quiet", str(project), "branch")
    do(tmp_path / "branch", "git", "checkout", "--quiet", "-b", "change")
    return tmp_path / "branch"


def review(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return run(folder, sys.executable, str(REVIEW), *options)


@functools.cache
def script():
    spec = importlib.util.spec_from_file_location("review", REVIEW)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_rate(folder: Path, rate: str) -> None:
    (folder / "params.yaml").write_text(params(rate))


def changed(branch: Path, rate: str) -> subprocess.CompletedProcess:
    """The review of a branch with another error rate, in a clone without DVC's cache."""
    with_rate(branch, rate)
    do(branch, "dvc", "repro", "--quiet")
    commit(branch, "Another rate")
    shutil.rmtree(branch / ".dvc" / "cache")
    (branch / "model.txt").unlink()
    return review(branch, "origin/main")


def row_of(branch: Path, rate: str, monkeypatch) -> list[str]:
    """The row of the task for scores with another error rate, without a new process for the review."""
    with_rate(branch, rate)
    do(branch, sys.executable, "evaluate.py")
    monkeypatch.chdir(branch)
    return script().row("HEAD", "films", script().compare("HEAD", "films"))


def verdict(printed: subprocess.CompletedProcess) -> list[str]:
    """The row of the task."""
    [found] = [line for line in rows(printed.stdout) if line[0] == "films (accuracy)"]
    return found


def test_a_measurably_worse_score_fails_and_stands_before_the_tables(branch):
    printed = changed(branch, "0.5")
    assert printed.returncode == 1, printed.stderr
    assert "dvc.lock is up to date" in printed.stdout
    low, high = re.search(r"75.0 → 50.0 \(-25.0, (-\S+) to (-\S+)\)", printed.stdout).groups()
    worse = f"films: student is worse: -25.0, {low} to {high} points; the tolerance is 2 (`review.tolerance`)"
    assert f"**Does not pass:**\n\n- {worse}" in printed.stdout and float(low) < -25 < float(high) < 0
    assert verdict(printed) == ["films (accuracy)", f"75.0 → 50.0 (-25.0, {low} to {high})", "–", "+25.0 → +0.0",
                                "90.0", "–", "–", "–", "student: worse"]  # fmt: skip
    assert ["params.yaml", "rate", "0.25", "0.5"] in rows(printed.stdout)
    assert ["metrics/films/scores.json", "teacher.accuracy", "0.75", "0.5", "-0.25"] in rows(printed.stdout)


def test_a_measurably_better_score_passes(branch):
    printed = changed(branch, "0.125")
    assert printed.returncode == 0 and "No student or int8 model is worse by more than 2 points" in printed.stdout
    assert verdict(printed)[1].startswith("75.0 → 87.5 (+12.5, ") and verdict(printed)[-1] == "student: better"


def test_a_difference_that_the_test_rows_cannot_show_is_none_and_passes(branch, monkeypatch):
    found = row_of(branch, "0.265625", monkeypatch)  # one row of 64
    assert found[-1] == "student: no difference"
    assert script().failures("films", script().compare("HEAD", "films"), tolerance=0) == []


def test_a_worse_score_within_the_tolerance_passes_and_is_called_worse(branch, monkeypatch):
    assert row_of(branch, "0.5", monkeypatch)[-1] == "student: worse"
    compared = script().compare("HEAD", "films")
    assert script().failures("films", compared, tolerance=0.25) == []
    assert len(script().failures("films", compared, tolerance=0.24)) == 1


def test_a_project_in_a_folder_of_its_repository_is_compared_with_its_own_files(tmp_path, monkeypatch):
    folder = tmp_path / "repository" / "films"
    (folder / "metrics" / "films").mkdir(parents=True)
    (folder / "metrics" / "films" / "scores.json").write_text("{}")
    do(folder.parent, "git", "init", "--quiet")
    commit(folder.parent, "First")
    monkeypatch.chdir(folder)
    assert script().tasks_to_compare("HEAD", None) == (["films"], [])
    assert script().both("HEAD", "films", "scores.json") == ("{}", "{}")


def test_fewer_rows_than_could_show_anything_show_no_difference():
    line = {"metric": "accuracy", "rows": 5, "digest": "aa"}
    before, after = ({**line, "score": score, "resampled": [score] * 10} for score in (1, 0))
    assert comparison.compare_scores(before, after).verdict == comparison.SAME
    six = ({**found, "rows": 6} for found in (before, after))
    assert comparison.compare_scores(*six).verdict == comparison.WORSE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"digest": "bb"}, "the test rows differ: aa before, bb now"),
        ({"rows": 63}, "the number of test rows differs: 64 before, 63 now"),
        ({"metric": "mcc"}, "the metric differs: accuracy before, mcc now"),
        ({"resampled": [float("nan")]}, "scores that are not finite"),
        (None, "no scores in metrics/films/resampled/student.jsonl: run `dvc repro`"),
    ],
    ids=["other rows", "fewer rows", "another metric", "not finite", "missing"],
)
def test_what_cannot_be_compared_says_why_and_does_not_pass(branch, monkeypatch, change, reason):
    monkeypatch.chdir(branch)
    path = Path("metrics/films/resampled/student.jsonl")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change})) if change else path.unlink()
    compared = script().compare("HEAD", "films")
    [line] = script().failures("films", compared, tolerance=0.5)
    assert line.startswith("- films: student cannot be compared: ") and reason in line


@pytest.mark.parametrize("name", ["scores.json", "resampled/student.jsonl"])
def test_metrics_with_a_conflict_of_a_merge_are_named(branch, monkeypatch, name):
    monkeypatch.chdir(branch)
    path = Path("metrics/films", name)
    path.write_text(f"<<<<<<< HEAD\n{path.read_text()}=======\n")
    with pytest.raises(SystemExit, match=f"^review: cannot compare: metrics/films/{name} is damaged: run `dvc repro`"):
        script().compare("HEAD", "films"), script().reports("HEAD", "films", name)


def test_scores_older_than_the_comparison_cannot_be_compared(branch, monkeypatch):
    monkeypatch.chdir(branch)
    do(branch, "git", "rm", "--quiet", "--cached", "metrics/films/resampled/student.jsonl")
    do(branch, "git", "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "Older")
    [line] = script().failures("films", script().compare("HEAD", "films"), tolerance=0.5)
    assert "student cannot be compared: the commit compared with has no scores in metrics/films" in line


def test_a_new_task_has_nothing_to_compare_with_and_passes(branch, monkeypatch):
    shutil.copytree(branch / "metrics/films", branch / "metrics/tweets")
    monkeypatch.chdir(branch)
    assert script().tasks_to_compare("HEAD", None) == (["films", "tweets"], [])
    compared = script().compare("HEAD", "tweets")
    first, *_, last = script().row("HEAD", "tweets", compared)
    assert (first, last) == ("tweets (accuracy)", "student: new")
    assert script().failures("tweets", compared, tolerance=0) == []


def test_times_are_compared_as_ratios_with_their_spread_and_never_fail(branch, monkeypatch):
    def write(milliseconds: float, machine: str) -> None:
        times = {"megabytes": 15.7, "p50": milliseconds, "p95": 1.25 * milliseconds}
        report = {"machine": {"processor": machine}, "student": {"parameters": 1, "int8": times}}
        (branch / "metrics/films/benchmark.json").write_text(json.dumps(report))

    write(2, "one")
    commit(branch, "Measured")
    write(20, "other")
    printed = review(branch, "HEAD")
    assert printed.returncode == 0
    slower = "2 → 20 (×10.00, 8.00 to 12.50)"
    elsewhere = f"{slower} on another machine or with other libraries"
    assert verdict(printed)[6:8] == [elsewhere, "15.7"]
    assert ["films", "student, int8", elsewhere] in rows(printed.stdout)
    write(20, "one")
    monkeypatch.chdir(branch)
    assert script().row("HEAD", "films", script().compare("HEAD", "films"))[6] == slower


def test_a_missing_tolerance_is_named(branch):
    for text in ("rate: 0.25\n", "rate: 0.25\nreview:\n"):
        (branch / "params.yaml").write_text(text)
        printed = review(branch, "origin/main")
        assert printed.returncode == 1 and "expected a number as review.tolerance" in printed.stderr


def test_long_tables_are_cut_and_say_so():
    lines = [[str(number)] for number in range(210)]
    shown = script().shortened(script().table(["Metric"], lines))
    assert len(rows(shown)) == 2 + script().MOST_ROWS and "And 170 more: run" in shown


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_a_retention_that_becomes_undefined_is_shown(branch, monkeypatch):
    assert row_of(branch, "0.75", monkeypatch)[4] == "90.0 → –"


def test_the_gain_of_each_task_is_said_in_words_before_and_now(branch, monkeypatch):
    """Also where nothing has changed, or where the scores have no gain."""
    monkeypatch.chdir(branch)
    gain, path = "gain +25.0 (15.0 to 35.0); retention 90.0 %", Path("metrics/films/scores.json")
    assert ["films", gain, gain] in rows(script().gains_table("HEAD", ["films"]))
    scores = {**json.loads(path.read_text()), "retention": None, "gain": {"value": -0.25, "low": -0.35, "high": -0.15}}
    path.write_text(json.dumps(scores))
    worse = "distillation has not helped: gain -25.0 (-35.0 to -15.0); retention undefined: the teacher is no better"
    found = rows(script().gains_table("HEAD", ["films"]))
    assert ["films", gain, f"{worse} than a trivial predictor on test"] in found
    path.write_text('{"student": {"accuracy": 0.5}}')
    assert ["films", gain, "not measured"] in rows(script().gains_table("HEAD", ["films"]))
    assert rows(script().gains_table("HEAD", []))[2:] == []


def test_missing_scores_are_shown_and_make_the_stage_stale(branch):
    (branch / "metrics/films/scores.json").unlink()
    printed = review(branch, "origin/main")
    assert verdict(printed)[1] == "75.0 → –"
    assert "- `evaluate`: metrics/films/scores.json" in printed.stdout and printed.returncode == 1


def test_a_terminal_that_is_not_utf_8_gets_the_same(branch, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    (branch / "params.yaml").write_text(f"{params('0.25')}name: cinéma\n", encoding="utf-8")
    (branch / "metrics/films/scores.json").write_text("{}")
    printed = review(branch, "origin/main")
    assert "75.0 → –" in printed.stdout and "Traceback" not in printed.stderr


def test_data_of_dvc_that_are_not_here_do_not_make_a_stage_stale(project, tmp_path, monkeypatch):
    """`dvc add` of a file in a folder that a stage depends on, in a clone without the file."""
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    (folder / "raw").mkdir()
    (folder / "raw/rows.csv").write_text("a row")
    (folder / "dvc.yaml").write_text(STAGES.replace("data.txt]", "data.txt, raw]"))
    for command in (["add", "raw/rows.csv"], ["commit", "--force"]):
        do(folder, "dvc", *command, "--quiet")
    commit(folder, "With data")
    do(tmp_path, "git", "clone", "--quiet", str(folder), "branch")
    monkeypatch.chdir(tmp_path / "branch")
    found = script().stale_stages()
    assert found == {} and script().verdict(found).endswith(
        " Not compared, because the files are not here: raw/rows.csv."
    )
    Path("evaluate.py").write_text("# Changed.")
    assert script().stale_stages() == {"evaluate": ["evaluate.py"]}


# This project's dvc.yaml


@pytest.fixture(scope="module")
def clone(recorded, tmp_path_factory) -> Path:  # noqa: F811
    """A clone of this project without data and cache; its dvc.lock is up to date."""
    origin, folder = Path(recorded.root_dir), tmp_path_factory.mktemp("clone")
    commit(origin, "Recorded")
    do(folder, "git", "clone", "--quiet", str(origin), "clone")
    return folder / "clone"


CHANGES = {  # a few of those in test_changes.py
    "a temperature": ("params.yaml", set_value("distill_prediction.temperature", 2), "distill_prediction package"),
    "a comment in the losses": (
        "pipeline/tinybert/distillation/losses.py",
        further_line,
        "general_student distill_intermediate distill_prediction",
    ),
    "the settings schema": ("pipeline/tinybert/core/settings.py", further_line, ""),
}


@pytest.mark.parametrize(("file", "change", "stale"), CHANGES.values(), ids=CHANGES)
def test_in_a_clone_without_data_each_kind_of_change_names_its_stale_stages(clone, monkeypatch, file, change, stale):
    monkeypatch.chdir(clone)
    before = Path(file).read_text(encoding="utf-8")
    Path(file).write_text(change(before), encoding="utf-8")
    found = script().stale_stages()
    Path(file).write_text(before, encoding="utf-8")
    assert set(found) == expand(stale)
    for [changed] in found.values():  # one path each
        assert changed.split(" (")[0] in (file, str(Path(file).parent))


def test_a_clone_without_data_shows_stale_stages_settings_scores_and_tasks_that_no_longer_run(clone):
    parameters, scores = (clone / "params.yaml").read_text(), clone / f"metrics/{TASK}/scores.json"
    changed = set_value("evaluate.resamples", 7)(set_value("run", [TASK])(parameters))
    (clone / "params.yaml").write_text(changed)
    scores.write_text(SCORES.replace("0.75", "0.5"))
    printed = review(clone, "HEAD")
    do(clone, "git", "checkout", "--quiet", ".")
    assert printed.returncode == 1, printed.stderr
    assert f"- `evaluate@{TASK}`: params.yaml (evaluate), metrics/{TASK}/scores.json\n" in printed.stdout
    assert f"No longer in `run`: {OTHER}." in printed.stdout
    assert ["params.yaml", "evaluate.resamples", "1000", "7"] in rows(printed.stdout)
    assert [f"metrics/{TASK}/scores.json", "student.accuracy", "0.75", "0.5", "-0.25"] in rows(printed.stdout)


@pytest.mark.parametrize(("file", "content"), [("params.yaml", params("0.5")), ("evaluate.py", EVALUATE + "# more\n")])
def test_a_stale_lock_fails_and_names_the_stages_that_would_run(branch, file, content):
    (branch / file).write_text(content)
    commit(branch, "Forgotten")
    printed = review(branch, "origin/main")
    assert printed.returncode == 1
    assert "**dvc.lock is stale**: `evaluate` would run. Run `dvc repro`" in printed.stdout


def test_a_branch_without_changes_has_no_differences(branch):
    printed = review(branch, "origin/main")
    assert printed.returncode == 0 and printed.stdout.count("No difference.") == 3  # settings, times, metrics


def test_later_commits_of_the_base_branch_are_not_differences(branch, project):
    do(project, "git", "checkout", "--quiet", "-b", "later")
    with_rate(project, "0.75")
    do(project, "dvc", "repro", "--quiet")
    commit(project, "Later")
    do(project, "git", "checkout", "--quiet", "main")
    do(branch, "git", "fetch", "--quiet")
    printed = review(branch, "origin/later")
    assert printed.returncode == 0 and printed.stdout.count("No difference.") == 3  # settings, times, metrics


def test_a_shallow_clone_fails_and_says_what_to_do(branch, tmp_path):
    with_rate(branch, "0.5")
    commit(branch, "Change")
    do(tmp_path, "git", "clone", "--quiet", "--depth", "1", f"file://{branch}", "shallow")
    printed = review(tmp_path / "shallow", "origin/main")
    assert printed.returncode == 1 and printed.stdout == ""
    assert "this clone is shallow: run `git fetch --unshallow`" in printed.stderr and "Traceback" not in printed.stderr


def test_an_unknown_base_branch_is_named(branch):
    printed = review(branch, "origin/nothing")
    assert printed.returncode == 1 and "origin/nothing and HEAD have no common commit" in printed.stderr


def test_the_plots_of_both_branches_are_on_one_page(branch, tmp_path):
    with_rate(branch, "0.5")
    do(branch, "dvc", "repro", "--quiet")
    commit(branch, "Change")
    printed = review(branch, "origin/main", "--plots", str(tmp_path / "plots"))
    assert printed.stderr == ""
    page = (tmp_path / "plots" / "index.html").read_text()
    assert "0.25" in page and "0.5" in page and "loss" in page


# Workflows

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_have_minimal_permissions_pinned_actions_and_secrets_only_to_release(path):
    text = path.read_text(encoding="utf-8")
    workflow = ruamel.yaml.YAML(typ="safe", pure=True).load(text)
    assert workflow["permissions"] == {"contents": "read"} and ("secrets." in text) == (path.stem == "release")
    permissions = [job.get("permissions", {}) for job in workflow["jobs"].values()]
    assert all(right == "read" or name == "pull-requests" for granted in permissions for name, right in granted.items())
    actions = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert actions and all(len(action.partition("@")[2]) == 40 for action in actions)


def test_the_review_workflow_runs_the_script_with_the_full_history():
    steps = ruamel.yaml.YAML(typ="safe", pure=True).load(
        (ROOT / ".github/workflows/review.yml").read_text(encoding="utf-8")
    )["jobs"]["review"]["steps"]
    assert steps[0]["with"]["fetch-depth"] == 0
    assert any(".github/review.py" in step.get("run", "") for step in steps)


# The rebuild


def lock(md5: str) -> str:
    outs = f"outs: [{{path: data/x, md5: aa}}, {{path: models/x, md5: {md5}}}]"
    return f"stages:\n  evaluate@x:\n    {outs}\n  package@x:\n    outs: [{{path: card, md5: {md5}}}]\n"


def rebuild(folder: Path, md5: str, before: dict, now: dict) -> subprocess.CompletedProcess:
    """`rebuild.py` after a run on the machine ``now``; the committed run, with the hash aa, was on ``before``."""
    do(folder, "git", "init", "--quiet")
    report = folder / "metrics/x/benchmark.json"
    report.parent.mkdir(parents=True)

    def write(hash_of_model: str, machine: dict) -> None:
        (folder / "dvc.lock").write_text(lock(hash_of_model))
        report.write_text(json.dumps({"machine": machine, "p50": hash_of_model}))

    write("aa", before)
    commit(folder, "Run")
    write(md5, now)
    return run(folder, sys.executable, str(ROOT / ".github/rebuild.py"))


@pytest.mark.parametrize(
    ("md5", "cores", "code", "said"),
    [
        ("aa", 2, 0, "2 of 2 outputs have the bytes of the commit"),
        ("bb", 2, 1, "These differ:\n\n- `models/x`\n"),
        ("bb", 8, 0, "another kind of machine, so they may differ:"),
    ],
)
def test_a_rebuild_compares_hashes_and_fails_only_on_the_kind_of_machine_that_made_them(
    tmp_path, md5, cores, code, said
):
    done = rebuild(tmp_path, md5, {"cores": 2}, {"cores": cores})
    assert (done.returncode, said in done.stdout) == (code, True), done.stderr
    assert "card" not in done.stdout  # it contains measured times


@pytest.mark.parametrize(
    ("before", "now", "gpu", "is_another_kind"),
    [
        ("2.13.0+cpu", "2.13.0+cu130", None, False),
        ("2.13.0+cpu", "2.13.0+cu130", "H200", True),
        ("2.13.0+cpu", "2.14.0+cpu", None, True),
    ],
)
def test_on_cpus_the_builds_of_torch_are_the_same_kind_of_machine(tmp_path, before, now, gpu, is_another_kind):
    done = rebuild(tmp_path, "bb", {"torch": before, "gpu": None}, {"torch": now, "gpu": gpu})
    assert ("another kind of machine" in done.stdout) is is_another_kind, done.stderr
    assert done.returncode == (not is_another_kind)
