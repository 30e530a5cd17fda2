"""`.github/review.py` on real clones of a DVC project with one stage."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ruamel.yaml
from tiny import ROOT

REVIEW = ROOT / ".github" / "review.py"
STAGES = """
stages:
  evaluate:
    cmd: python evaluate.py
    params: [rate]
    deps: [evaluate.py, data.txt]
    outs: [model.txt]
    metrics:
      - metrics/films/scores.json: {cache: false}
    plots:
      - metrics/films/loss.csv: {cache: false}
"""
EVALUATE = """
import json, re
rate = float(re.search(r"rate: (.*)", open("params.yaml").read())[1])
open("model.txt", "w").write(str(rate))
accuracy, retention = 1 - rate, 0.9 if rate < 0.6 else None
student = {"accuracy": accuracy, "low": 0.1, "calibration_error": accuracy}
scores = {"student": student, "retention": retention, "teacher": {"accuracy": accuracy}}
json.dump(scores, open("metrics/films/scores.json", "w"))
open("metrics/films/loss.csv", "w").write(f"step,loss\\n1,{rate}\\n")
"""


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
    files = {"dvc.yaml": STAGES, "evaluate.py": EVALUATE, "params.yaml": "rate: 0.25\n", "data.txt": "films\n"}
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


def with_rate(folder: Path, rate: str) -> None:
    (folder / "params.yaml").write_text(f"rate: {rate}\n")


def test_a_worse_score_is_listed_before_the_tables(branch):
    with_rate(branch, "0.5")
    do(branch, "dvc", "repro", "--quiet")
    commit(branch, "Worse")
    shutil.rmtree(branch / ".dvc" / "cache")
    (branch / "model.txt").unlink()
    printed = review(branch, "origin/main")
    assert printed.returncode == 0, printed.stderr
    assert "dvc.lock is up to date" in printed.stdout
    assert "**Worse than before:**\n\n- films: student.accuracy 0.75 → 0.5\n\n" in printed.stdout
    assert ["params.yaml", "rate", "0.25", "0.5"] in rows(printed.stdout)
    assert ["metrics/films/scores.json", "teacher.accuracy", "0.75", "0.5", "-0.25"] in rows(printed.stdout)


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_a_retention_that_becomes_undefined_is_worse(branch):
    with_rate(branch, "0.75")
    do(branch, "dvc", "repro", "--quiet")
    commit(branch, "Worthless")
    assert "- films: retention 0.9 → None" in review(branch, "origin/main").stdout


def test_a_better_score_is_in_the_table_and_nothing_is_called_worse(branch):
    with_rate(branch, "0.125")
    do(branch, "dvc", "repro", "--quiet")
    commit(branch, "Better")
    printed = review(branch, "origin/main")
    assert printed.returncode == 0 and "No student score fell." in printed.stdout
    assert ["metrics/films/scores.json", "student.accuracy", "0.75", "0.875", "0.125"] in rows(printed.stdout)


@pytest.mark.parametrize(("file", "content"), [("params.yaml", "rate: 0.5\n"), ("evaluate.py", EVALUATE + "# more\n")])
def test_a_stale_lock_fails_and_names_the_stages_that_would_run(branch, file, content):
    (branch / file).write_text(content)
    commit(branch, "Forgotten")
    printed = review(branch, "origin/main")
    assert printed.returncode == 1
    assert "**dvc.lock is stale**: `evaluate` would run. Run `dvc repro`" in printed.stdout


def test_a_branch_without_changes_has_no_differences(branch):
    printed = review(branch, "origin/main")
    assert printed.returncode == 0 and printed.stdout.count("No difference.") == 2


def test_later_commits_of_the_base_branch_are_not_differences(branch, project):
    do(project, "git", "checkout", "--quiet", "-b", "later")
    with_rate(project, "0.75")
    do(project, "dvc", "repro", "--quiet")
    commit(project, "Later")
    do(project, "git", "checkout", "--quiet", "main")
    do(branch, "git", "fetch", "--quiet")
    printed = review(branch, "origin/later")
    assert printed.returncode == 0 and printed.stdout.count("No difference.") == 2


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
    assert printed.returncode == 0, printed.stderr
    page = (tmp_path / "plots" / "index.html").read_text()
    assert "0.25" in page and "0.5" in page and "loss" in page


# Workflows

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_have_minimal_permissions_pinned_actions_and_no_secrets(path):
    text = path.read_text(encoding="utf-8")
    workflow = ruamel.yaml.YAML(typ="safe", pure=True).load(text)
    assert workflow["permissions"] == {"contents": "read"} and "secrets." not in text
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
