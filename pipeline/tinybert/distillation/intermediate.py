"""The intermediate stage of TinyBERT's distillation (Jiao et al. 2020, section 3.1): the student learns the teacher's
embeddings, hidden states and attention scores.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.tinybert.core import launch
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.distillation import losses
from pipeline.tinybert.distillation.layer_map import map_layers
from pipeline.tinybert.distillation.teacher_logits import TeacherLogits
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.attention import attention_scores, our_attention
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.precision import to_inference
from pipeline.tinybert.training.loop import Batch, Objective, Plan, Result, Tensors, train_or_load

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import DistillIntermediate, GeneralDistillation, Losses, Numerics
    from pipeline.tinybert.tasks import Task

PARTS = ("embeddings", "hidden", "attention")
BATCHES_PER_WRITE = 64  # of teacher logits


class StudentWithProjections(nn.Module):
    """A student encoder and the learned projections of its states to the teacher's width.

    The projections are used in training only. If the widths are equal, they begin as the identity.
    """

    def __init__(self, student: PreTrainedModel, teacher_width: int, projections: str):
        super().__init__()
        self.student = student
        width, states = student.config.hidden_size, student.config.num_hidden_layers + 1
        made = [nn.Linear(width, teacher_width) for _ in range(1 if projections == "shared" else states)]
        self.projections = nn.ModuleList(made)
        if width == teacher_width:
            for projection in made:
                nn.init.eye_(projection.weight)
                nn.init.zeros_(projection.bias)

    def forward(self, inputs: Batch, score_layers: list[int]) -> tuple[list[Tensor], list[Tensor]]:
        """States 0..M (0: the embedding output), each (B, S, teacher width), and the attention scores (B, H, S, S) of
        ``score_layers``.
        """
        states, scores = states_and_scores(self.student, inputs, score_layers)
        if len(self.projections) == 1:
            return [self.projections[0](state) for state in states], scores
        return [project(state) for project, state in zip(self.projections, states, strict=True)], scores


def states_and_scores(encoder: nn.Module, inputs: Batch, layers: list[int]) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """All hidden states of ``encoder`` (B, S, D) and the attention scores (B, H, S, S) of its ``layers``, counted from
    1, in one forward pass.
    """
    with attention_scores(layers) as scores:
        states = encoder(**inputs, output_hidden_states=True).hidden_states
    return states, [scores[layer] for layer in layers]


def intermediate_losses(
    student: nn.Module,
    teacher_states: list[Tensor] | tuple[Tensor, ...],
    teacher_scores: list[Tensor],
    inputs: Batch,
    layer_map: list[int],
    weights: Losses,
) -> Tensors:
    """The weighted parts of the intermediate loss (equations 7 to 9), each summed over its layers.

    student: a `StudentWithProjections`. teacher_states: all of the teacher's. teacher_scores: those of ``layer_map``.
    Parts with weight 0 are left out.
    """
    mask = inputs["attention_mask"]
    student_layers = range(1, len(layer_map) + 1)
    states, scores = student(inputs, list(student_layers) if weights.attention else [])
    parts: Tensors = {}
    if weights.embeddings:
        parts["embeddings"] = weights.embeddings * losses.hidden_loss(states[0], teacher_states[0], mask)
    if weights.hidden:
        layer_pairs = zip(student_layers, layer_map, strict=True)
        hidden = [losses.hidden_loss(states[own], teacher_states[theirs], mask) for own, theirs in layer_pairs]
        parts["hidden"] = weights.hidden * reduce(add, hidden)
    if weights.attention:
        score_pairs = zip(scores, teacher_scores, strict=True)
        attention = [losses.attention_loss(own, theirs, mask) for own, theirs in score_pairs]
        parts["attention"] = weights.attention * reduce(add, attention)
    return parts


class LogitsRecorder:
    """Writes the teacher's class logits, which the intermediate stage computes anyway, into ``logits``: several batches
    together, because a GPU would have to wait for each write.
    """

    def __init__(self, task: Task, logits: TeacherLogits):
        self.task, self.logits = task, logits
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, numbers: Tensor, logits: Tensor, mask: Tensor) -> None:
        """A batch's sequence numbers (B,), logits (B, P, C) and label mask (B, P)."""
        self.waiting.append((numbers, logits, mask))
        if len(self.waiting) == BATCHES_PER_WRITE:
            self.write()

    def write(self) -> None:
        for numbers, logits, mask in self.waiting:
            self.logits.put(numbers.cpu().numpy(), logits, mask)
        self.waiting = []


class IntermediateObjective(Objective):
    """The intermediate losses of a `StudentWithProjections`."""

    needs_all_weights = False  # an encoder's pooler has no part in the loss

    def __init__(self, teacher: nn.Module, layer_map: list[int], weights: Losses, recorder: LogitsRecorder | None):
        self.teacher, self.layer_map, self.weights, self.recorder = teacher, layer_map, weights, recorder
        self.parts = tuple(part for part in PARTS if getattr(weights, part))

    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensors, Tensors]:
        inputs = {name: values for name, values in batch.items() if name not in ("number", "label_mask")}
        with torch.no_grad(), attention_scores(self.layer_map if self.weights.attention else []) as scores:
            outputs = self.teacher(**inputs, output_hidden_states=True)
        teacher_scores = [scores[layer] for layer in self.layer_map if layer in scores]
        parts = intermediate_losses(model, outputs.hidden_states, teacher_scores, inputs, self.layer_map, self.weights)
        return parts, {"logits": self.recorder.task.class_logits(outputs)} if self.recorder else {}

    def counts(self, batch: Batch) -> Tensors:
        """Positions; for attention scores, pairs of positions."""
        lengths = batch["attention_mask"].sum(dim=1)
        return {"embeddings": lengths.sum(), "hidden": lengths.sum(), "attention": lengths.square().sum()}

    def after_batch(self, batch: Batch, found: Tensors) -> None:
        if self.recorder and self.is_last_epoch:  # each epoch would overwrite the logits of the one before
            self.recorder.add(batch["number"], found["logits"], batch["label_mask"])

    def before_checkpoint(self) -> None:
        if self.recorder:
            self.recorder.write()
            self.recorder.logits.commit()

    def files(self) -> list[Path]:
        return self.recorder.logits.files() if self.recorder else []


def check_heads(student: PreTrainedModel, teacher: PreTrainedModel, weights: Losses, key: str) -> None:
    ours, theirs = student.config.num_attention_heads, teacher.config.num_attention_heads
    if weights.attention and ours != theirs:
        raise UserError(
            f"{key}.losses.attention: the student has {ours} heads, the teacher {theirs}: the attention loss compares"
            " head with head; set general_student.shape.heads to the teacher's, or this weight to 0"
        )


def learn_intermediate(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    data: EncodedRows,
    tokenizer,
    settings: DistillIntermediate | GeneralDistillation,
    numerics: Numerics,
    key: str,
    recorder: LogitsRecorder | None = None,
) -> Result:
    """Train ``student`` (an encoder) in place on the teacher's states and attention scores; the last epoch is kept.

    ``teacher`` becomes an inference-only model. ``key``: the group of settings, for messages. The learning rate is
    constant, as in the paper.
    """
    check_heads(student, teacher, settings.losses, key)
    layer_map = map_layers(
        settings.layer_map, student.config.num_hidden_layers, teacher.config.num_hidden_layers, f"{key}.layer_map"
    )
    if not any(settings.losses.model_dump().values()):
        raise UserError(f"{key}.losses: all are 0: the student would learn nothing; set epochs to 0 to skip the stage")
    checkpoints.set_dropout(student, settings.dropout)
    set_seed(numerics.seed)
    projected = StudentWithProjections(our_attention(student), teacher.config.hidden_size, settings.projections)
    teacher = our_attention(to_inference(teacher, numerics.precision, launch.device()))
    plan = Plan(
        stage=key,
        seed=numerics.seed,
        precision=numerics.precision,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        epochs=settings.epochs,
        min_steps=settings.min_steps,
        schedule="constant",
    )
    objective = IntermediateObjective(teacher, layer_map, settings.losses, recorder)
    collate = Collator(tokenizer, *(("number", "label_mask") if recorder else ()))
    return train_or_load("intermediate", objective, projected, data, collate, plan)
