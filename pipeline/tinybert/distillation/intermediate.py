"""The intermediate stage of TinyBERT's distillation (Jiao et al. 2020, section 3.1): the student learns the teacher's
embeddings, hidden states and attention scores.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.tinybert.core import launch
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.distillation import losses
from pipeline.tinybert.distillation.layer_map import map_layers
from pipeline.tinybert.distillation.teacher_logits import TeacherLogits
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.alignment import END, FIRST, SecondReading, cut_alike, overlap_weights
from pipeline.tinybert.models.attention import attention_scores, gives_scores, our_attention
from pipeline.tinybert.models.batches import COLUMNS, Collator
from pipeline.tinybert.models.batches import Batch as Rows
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.families import LastVectors, local_layers
from pipeline.tinybert.models.precision import to_inference
from pipeline.tinybert.training.embeddings_in_use import embeddings_in_use
from pipeline.tinybert.training.loop import Batch, Objective, Tensors, train_or_load
from pipeline.tinybert.training.plan import Plan, Result

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import LayerDistillation, Losses, Numerics
    from pipeline.tinybert.tasks import Task

PARTS = ("embeddings", "hidden", "attention", "relations")
BATCHES_PER_WRITE = 64  # of teacher logits
TEACHER = "teacher: "  # begins the names of the inputs of a teacher with another tokenizer
RECORDED = ("number", "label_mask", *(TEACHER + name for name in ("label_mask", FIRST, END)))


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
    mask: Tensor | None = None,
) -> Tensors:
    """The weighted parts of the intermediate loss (equations 7 to 9), each summed over its layers.

    student: a `StudentWithProjections`. teacher_states: all of the teacher's. teacher_scores: those of ``layer_map``.
    mask: the positions (B, S) that count; by default all real ones. Parts with weight 0 are left out.
    """
    mask = inputs["attention_mask"] if mask is None else mask
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
        self.waiting: list[tuple[Batch, Tensor]] = []

    def add(self, batch: Batch, logits: Tensor) -> None:
        """A batch with its sequence numbers (B,) and label mask (B, P), and its logits (B, P, C)."""
        self.waiting.append(({name: batch[name] for name in RECORDED if name in batch}, logits))
        if len(self.waiting) == BATCHES_PER_WRITE:
            self.write()

    def write(self) -> None:
        for batch, logits in self.waiting:
            numbers, mask, *theirs = (values.cpu() for values in batch.values())
            if theirs:  # of a teacher with another tokenizer
                teacher_mask, *ranges = theirs
                logits = self.task.align_logits(logits.float().cpu(), teacher_mask, mask, *ranges)
            self.logits.put(numbers.numpy(), logits, mask)
        self.waiting = []


class CollatorWithReading(Collator):
    """Adds to a batch the inputs of a teacher with another tokenizer; their names begin with ``TEACHER``."""

    def __init__(self, tokenizer, reading: SecondReading, *also: str):
        super().__init__(tokenizer, "number", *also)
        self.reading, self.collate_theirs = reading, Collator(reading.tokenizer, "label_mask", FIRST, END)

    def __call__(self, batch: Rows) -> dict[str, Tensor]:
        made = super().__call__(batch)
        theirs = self.collate_theirs(self.reading.encoded.batch(made["number"].numpy()))
        return made | {TEACHER + name: values for name, values in theirs.items()}


class IntermediateObjective(Objective):
    """The intermediate losses of a `StudentWithProjections`."""

    needs_all_weights = False  # an encoder's pooler has no part in the loss

    def __init__(
        self,
        teacher: nn.Module,
        layer_map: list[int],
        weights: Losses,
        recorder: LogitsRecorder | None,
        vectors: tuple[LastVectors, LastVectors] | None = None,
        relation_heads: int = 1,
    ):
        """``vectors``: of student and teacher, for relations."""
        self.teacher, self.layer_map, self.weights, self.recorder = teacher, layer_map, weights, recorder
        self.vectors, self.relation_heads = vectors, relation_heads
        self.parts = tuple(part for part in PARTS if getattr(weights, part))

    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensors, Tensors]:
        inputs = {name: values for name, values in batch.items() if name in COLUMNS}
        theirs = {name: batch[TEACHER + name] for name in COLUMNS if TEACHER + name in batch}
        with torch.no_grad(), attention_scores(self.layer_map if self.weights.attention else []) as scores:
            outputs = self.teacher(**(theirs or inputs), output_hidden_states=True)
            states: Any = outputs.hidden_states
            teacher_scores = [scores[layer] for layer in self.layer_map if layer in scores]
            if theirs:
                overlap = overlap_of(batch)
                states = {layer: at_own_pieces(overlap, states[layer]) for layer in (0, *self.layer_map)}
                by_head = overlap.unsqueeze(1)
                teacher_scores = [
                    at_own_pieces(by_head, at_own_pieces(by_head, found).mT).mT for found in teacher_scores
                ]
        mask = positions(batch)
        parts = intermediate_losses(model, states, teacher_scores, inputs, self.layer_map, self.weights, mask)
        if self.vectors:
            ours, goals = (vectors.take() for vectors in self.vectors)
            if theirs:
                goals = [at_own_pieces(overlap, goal) for goal in goals]
            pairs = zip(ours, goals, strict=True)
            of_each = [losses.relation_loss(own, goal, mask, self.relation_heads) for own, goal in pairs]
            parts["relations"] = self.weights.relations * reduce(add, of_each)
        return parts, {"logits": self.recorder.task.class_logits(outputs)} if self.recorder else {}

    def counts(self, batch: Batch) -> Tensors:
        """Positions; for attention scores, pairs of positions."""
        lengths = positions(batch).sum(dim=1)
        return {
            "embeddings": lengths.sum(),
            "hidden": lengths.sum(),
            "attention": lengths.square().sum(),
            "relations": lengths.sum(),
        }

    def after_batch(self, batch: Batch, found: Tensors) -> None:
        if self.recorder and self.is_last_whole_epoch:  # it has every row once
            self.recorder.add(batch, found["logits"])

    def before_checkpoint(self) -> None:
        if self.recorder:
            self.recorder.write()
            self.recorder.logits.commit()

    def files(self) -> list[Path]:
        return self.recorder.logits.files() if self.recorder else []


def overlap_of(batch: Batch) -> Tensor:
    """The weights (B, S, T) of the teacher's positions for each of the student's, see `alignment.overlap_weights`."""
    return overlap_weights(batch[TEACHER + FIRST], batch[TEACHER + END], batch["input_ids"].size(1))


def at_own_pieces(overlap: Tensor, values: Tensor) -> Tensor:
    """The teacher's values (…, T, D) at the student's positions, (…, S, D), by the weights ``overlap`` (…, S, T)."""
    with torch.autocast(values.device.type, enabled=False):  # it would compute the product in bfloat16
        return overlap @ values.float()


def positions(batch: Batch) -> Tensor:
    """The real positions (B, S) of the student that a position of the teacher overlaps."""
    mask = batch["attention_mask"]
    return mask * overlap_of(batch).any(dim=-1) if TEACHER + FIRST in batch else mask


def learnable(
    weights: Losses,
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer,
    reading: SecondReading | None,
    layer_map: list[int],
    key: str,
) -> Losses:
    """The losses that this teacher can teach this student. Logs why others are left out. For ``reading`` and ``key``
    see `learn_intermediate`.
    """
    heads = [model.config.num_attention_heads for model in (student, teacher)]
    reason = ""
    if not gives_scores(teacher):
        reason = f"those of a {teacher.config.model_type} are not captured"
    elif heads[0] != heads[1]:
        reason = f"the student has {heads[0]} heads, the teacher {heads[1]} ({key}.losses.relations takes any number)"
    elif reading and not cut_alike(tokenizer, reading.tokenizer):
        reason = "the tokenizers of student and teacher cut texts into different pieces"
    elif local_layers(teacher.config) & {*layer_map} or local_layers(student.config):
        reason = "a layer has local attention, and its scores of far positions mean nothing"
    if reason and weights.attention:
        log(f"{key}.losses.attention: attention scores are not learned: {reason}")
        weights = weights.model_copy(update={"attention": 0})
    return weights


def last_vectors(
    student: PreTrainedModel, teacher: PreTrainedModel, weights: Losses, heads: int, key: str
) -> tuple[LastVectors, LastVectors] | None:
    """Those of student and teacher, if relations are learned. Raises UserError if ``heads`` does not divide a width."""
    if not weights.relations:
        return None
    for which, model in (("student", student), ("teacher", teacher)):
        if model.config.hidden_size % heads:
            raise UserError(
                f"{key}.relation_heads: {heads}: the {which}'s width, {model.config.hidden_size}, is no multiple of it:"
                " set another number"
            )
    return LastVectors(student), LastVectors(teacher.base_model)


def learn_intermediate(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    data: EncodedRows,
    tokenizer,
    settings: LayerDistillation,
    numerics: Numerics,
    key: str,
    recorder: LogitsRecorder | None = None,
    reading: SecondReading | None = None,
) -> Result:
    """Train ``student`` (an encoder) in place on the teacher's states and attention scores; the last epoch is kept.

    ``teacher`` becomes an inference-only model. ``key``: the group of settings, for messages. The learning rate is
    constant, as in the paper. ``reading``: the data as the teacher's own tokenizer reads them; None if that is
    ``tokenizer``.
    """
    layer_map = map_layers(
        settings.layer_map, student.config.num_hidden_layers, teacher.config.num_hidden_layers, f"{key}.layer_map"
    )
    weights = learnable(settings.losses, student, teacher, tokenizer, reading, layer_map, key)
    if not any(weights.model_dump().values()):
        why = "none is left that this teacher can teach" if any(settings.losses.model_dump().values()) else "all are 0"
        advice = "set epochs to 0 to skip the stage" if key == "distill_intermediate" else "give one of them a weight"
        raise UserError(f"{key}.losses: {why}: the student would learn nothing; {advice}")
    vectors = last_vectors(student, teacher, weights, settings.relation_heads, key)
    checkpoints.set_dropout(student, settings.dropout)
    set_seed(numerics.seed)
    projected = StudentWithProjections(our_attention(student), teacher.config.hidden_size, settings.projections)
    teacher = our_attention(to_inference(teacher, numerics.precision, launch.device()))
    plan = Plan.of(key, settings, numerics, schedule="constant")
    objective = IntermediateObjective(teacher, layer_map, weights, recorder, vectors, settings.relation_heads)
    also = ("number", "label_mask") if recorder else ()
    collate = CollatorWithReading(tokenizer, reading, *also) if reading else Collator(tokenizer, *also)
    with embeddings_in_use(student, data, tokenizer.pad_token_id):
        return train_or_load("intermediate", objective, projected, data, collate, plan)
