"""A stage whose loss is not finite stops with one line, and keeps no such weights to resume from.

A model whose outputs are not finite gets no scores.
"""

from pathlib import Path

import pytest
import tiny
from safetensors.torch import load_file, save_file

from pipeline.tinybert.core import resume
from pipeline.tinybert.core.errors import UserError, message
from pipeline.tinybert.training import loop

TOO_LARGE = 1e30
KINDS = {  # stage → its name in the message, and the setting of its learning rate
    "encoder": ("encoder.masked_language_model", "encoder.masked_language_model.learning_rate"),
    "general_student": ("general_student.distillation", "general_student.distillation.learning_rate"),
    "finetune_teacher": ("finetune_teacher", "finetune_teacher.learning_rate"),
    "distill_intermediate": ("distill_intermediate", "distill_intermediate.learning_rate"),
    "distill_prediction": ("distill_prediction", "distill_prediction.learning_rate"),
    "finetune_student": ("finetune_student", "finetune_student.learning_rate"),
}


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".dvc" not in path.relative_to(folder).parts
    }


@pytest.mark.parametrize("stage", KINDS)
def test_a_learning_rate_that_is_far_too_large_stops_each_kind_of_training(repository, monkeypatch, capfd, stage):
    name, key = KINDS[stage]
    rate = [TOO_LARGE] if key.endswith("s") else TOO_LARGE
    more = {"encoder.masked_language_model.train": "always", "encoder.masked_language_model.freeze_body": False}
    more |= {"encoder.masked_language_model.steps": 20, "general_student.start": "distillation"}
    tiny.write_params(repository / "params.yaml", **{**more, key: rate})
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    before = content(repository)
    arguments = [] if stage in tiny.COMMON else ["tiny"]
    with pytest.raises(UserError) as raised, resume.stage_folder(stage, arguments):
        tiny.run_stage(stage)
    line = message(raised.value)
    assert line.startswith(f"{name}: the ")
    assert "(learning rate 1e+30): set a smaller " in line and " at step " in line
    assert content(repository) == before
    checkpoints = list(Path(".dvc/tmp/scratch").rglob("checkpoint-*"))
    assert checkpoints, "the first steps were finite"
    for path in Path(".dvc/tmp/scratch").rglob("*.safetensors"):
        assert all(weights.isfinite().all() for weights in load_file(path).values())
    assert not list(Path(".dvc/tmp/scratch").rglob("result.json"))


@pytest.mark.parametrize(("stage", "model"), [("evaluate", "student"), ("export", "student"), ("benchmark", "teacher")])
def test_a_model_with_weights_that_are_not_finite_gets_no_scores(world, stage, model):
    path = Path(f"models/tiny/{model}/model.safetensors")
    weights = load_file(path)
    weights["classifier.weight"][0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    before = content(world)
    with pytest.raises(UserError, match=rf"^models/tiny/{model}: the model's (outputs|weights) are not finite"):
        tiny.run_stage(stage)
    assert content(world) == before
