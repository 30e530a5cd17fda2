"""The user's own teacher: an encoder to fine-tune, or a fine-tuned model that is taken as it is if it fits the task."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.data import locations
from pipeline.tinybert.models import checkpoints, memory, weights
from pipeline.tinybert.tasks import Task

KEY, ENCODER_KEY = "finetune_teacher.checkpoint", "finetune_teacher.encoder"


def encoder(location: str) -> tuple[Path, Any]:
    """The folder and the tokenizer of an encoder of the teacher's own (`finetune_teacher.encoder`)."""
    folder = locations.checkpoint_folder(location, ENCODER_KEY)
    tokenizer = checkpoints.encoder_tokenizer(folder, ENCODER_KEY)
    memory.check(folder, ENCODER_KEY, is_trained=True)
    checkpoints.load(AutoModel, folder, ENCODER_KEY)  # errors name the setting
    return folder, tokenizer


def load(task: Task, location: str, within: Path) -> tuple[PreTrainedModel, Any]:
    """The model and the tokenizer of a checkpoint, its outputs in the order of the task's labels.

    Raises UserError where it has another head or other labels.
    """
    folder = locations.checkpoint_folder(location, KEY, within)
    tokenizer = checkpoints.user_tokenizer(folder, KEY)
    memory.check(folder, KEY, is_trained=False)
    teacher, report = checkpoints.load_and_report(task.head, folder, KEY)
    _check_head(task, teacher, report, location)
    _in_the_order_of(task, teacher, location)
    return teacher, tokenizer


def _check_head(task: Task, teacher: PreTrainedModel, report: dict[str, Any], location: str) -> None:
    """Raise UserError if the checkpoint's head is of another class, incomplete, or trained with another loss."""
    expected = type(teacher).__name__
    made_for = teacher.config.architectures or [expected]
    if expected not in made_for:
        raise UserError(f"{KEY}: {location} holds a {made_for[0]}, expected a {expected} for this kind of task")
    wanted, stated = task.head_options().get("problem_type"), teacher.config.problem_type
    if wanted and stated not in (None, wanted):
        raise UserError(
            f"{KEY}: {location} was trained for {stated} (problem_type in its config.json), expected {wanted} for this"
            " kind of task: choose the kind that fits, or correct problem_type if it is wrong"
        )
    others = weights.of_no_known_part(teacher, report["unexpected_keys"])
    missing = report["missing_keys"]
    for problem, names in (("lacks weights of", missing), ("has weights that are not those of", others)):
        if names:
            raise UserError(
                f"{KEY}: {location} {problem} a {expected}: {weights.first_few(names)}: save a model of this class with"
                " save_pretrained"
            )


def _in_the_order_of(task: Task, teacher: PreTrainedModel, location: str) -> None:
    """Reorder the outputs of ``teacher`` so that output i is label i of the task. Labels are matched by name."""
    if not task.labels:
        return
    config: Any = teacher.config
    model: Any = teacher
    if len(task.labels) == 1:  # regression: a number has no name
        names = task.labels * config.num_labels
    else:
        names = [str(config.id2label.get(index)) for index in range(config.num_labels)]
    number = {name: index for index, name in enumerate(names)}
    if len(names) != len(task.labels) or set(names) != set(task.labels):
        raise UserError(
            f"{KEY}: {location} has the labels {', '.join(map(str, names))} (id2label in its config.json), the task has"
            f" {', '.join(task.labels)}: rename the labels of one of them (the task's are in source.labels)"
        )
    head = model.classifier if isinstance(model.classifier, nn.Linear) else model.classifier.out_proj
    order = [number[name] for name in task.labels]
    with torch.no_grad():
        head.weight.copy_(head.weight[order])
        head.bias.copy_(head.bias[order])
    for name, value in task.head_options().items():
        setattr(teacher.config, name, value)
