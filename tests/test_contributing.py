"""The lists of files in CONTRIBUTING.md: every file exists, and two sample losses need no other file."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXTENSIONS = re.findall(r"^## (Add .+)$", PAGE, re.MULTILINE)
LOSSES = "pipeline/tinybert/distillation/losses.py"
INTERMEDIATE = "pipeline/tinybert/distillation/intermediate.py"

# Each change: the file, a text in it, and the text that takes its place.
INTERMEDIATE_LOSS = [
    (LOSSES, "def masked_mean(", '''def cosine_loss(student, teacher, mask):
    """One minus the cosine of hidden states (B, S, D), mean over the mask (B, S)."""
    cosine = torch.nn.functional.cosine_similarity(student.float(), teacher.float(), dim=-1)
    return masked_mean(1 - cosine, mask)


def masked_mean('''),
    (INTERMEDIATE, 'PARTS = ("embeddings", ', 'PARTS = ("cosine", "embeddings", '),
    (INTERMEDIATE, "    return parts\n", '''    if weights.cosine:
        parts["cosine"] = weights.cosine * losses.cosine_loss(states[-1], teacher_states[-1], mask)
    return parts
'''),
    (INTERMEDIATE, '            "embeddings": lengths',
     '            "cosine": lengths.sum(),\n            "embeddings": lengths'),
    ("pipeline/tinybert/core/settings.py", "class Losses(Group):\n",
     "class Losses(Group):\n    cosine: Weight\n"),
    ("params.yaml", "losses: {embeddings: 1, ", "losses: {cosine: 1, embeddings: 1, "),
]  # fmt: skip
PREDICTION_LOSS = [
    (LOSSES, "def masked_mean(", '''def logit_error(student, teacher, mask, temperature):
    """Mean squared error of the logits (B, P, C) over the mask (B, P)."""
    return masked_mean((student.float() - teacher.float()).square().sum(dim=-1), mask)


def masked_mean('''),
    ("pipeline/tinybert/tasks/text_classification.py", 'loss: ClassVar = "soft_cross_entropy"',
     'loss: ClassVar = "logit_error"'),
]  # fmt: skip


def listed(extension: str) -> list[str]:
    """The files that the list of an extension names."""
    section = PAGE.split(f"## {extension}\n")[1].split("\n## ")[0]
    return [name for name in re.findall(r"`([^`\s]+)`", section) if re.search(r"/|\.(py|md|yaml|txt)$", name)]


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_listed_file_exists(extension):
    files = [name for name in listed(extension) if "<" not in name]
    folders = [name.rpartition("/")[0] for name in listed(extension) if "<" in name]
    assert files
    assert [name for name in files + folders if not (ROOT / name).exists()] == []


@pytest.fixture
def run_changed(world, tmp_path):
    """A function that changes a copy of the code and runs stages of the tiny world with it."""

    def run(changes: list[tuple[str, str, str]], *stages: str) -> None:
        code = tmp_path / "code"
        shutil.copytree(ROOT / "pipeline", code / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
        (code / "tests").mkdir()
        shutil.copy(ROOT / "tests/tiny.py", code / "tests")
        shutil.copy(ROOT / "params.yaml", code)
        for name, before, after in changes:
            text = (code / name).read_text(encoding="utf-8")
            assert before in text, f"{name} has no {before!r} any more: change the sample"
            (code / name).write_text(text.replace(before, after), encoding="utf-8")
        shutil.copy(code / "params.yaml", world)
        calls = "".join(f"tiny.run_stage('{stage}'); " for stage in stages)
        program = f"import tiny, pathlib; tiny.write_params(pathlib.Path('params.yaml')); {calls}"
        environment = {**os.environ, "PYTHONPATH": f"{code}{os.pathsep}{code / 'tests'}"}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    return run


@pytest.mark.parametrize("changes", [INTERMEDIATE_LOSS, PREDICTION_LOSS])
def test_the_sample_changes_touch_only_listed_files(changes):
    assert {name for name, _, _ in changes} <= set(listed("Add a loss"))


def test_a_new_part_of_the_intermediate_loss_needs_no_other_file(run_changed):
    run_changed(INTERMEDIATE_LOSS, "distill_intermediate")
    assert Path("metrics/tiny/distill_intermediate/plots/metrics/cosine.tsv").exists()


def test_a_new_loss_of_the_prediction_stage_needs_no_other_file(run_changed):
    curve = Path("metrics/tiny/distill_prediction/plots/metrics/loss.tsv")
    before = curve.read_text()
    run_changed(PREDICTION_LOSS, "distill_prediction")
    assert curve.read_text() != before
