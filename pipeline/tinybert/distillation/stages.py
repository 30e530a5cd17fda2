"""The two stages of TinyBERT's distillation (Jiao et al. 2020, section 3), on the library's Trainer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
import transformers
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.tinybert.core import launch
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.distillation import losses
from pipeline.tinybert.distillation.layer_map import map_layers
from pipeline.tinybert.distillation.teacher_logits import Logits
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.attention import attention_scores, our_attention
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.models.precision import autocast, to_inference
from pipeline.tinybert.models.sequences import Sequences
from pipeline.tinybert.training.fine_tuning import (
    EvaluationSet,
    TaskTrainer,
    encode,
    last_layer_first_position_only,
    train_to_best_epoch,
)
from pipeline.tinybert.training.loop import EVALUATION_BATCH, SHARE, QuietTrainer, Result, arguments, once, steps_of

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import (
        DistillIntermediate,
        DistillPrediction,
        GeneralDistillation,
        Losses,
        Numerics,
    )
    from pipeline.tinybert.data.rows import Row
    from pipeline.tinybert.tasks import Task

PARTS = ("embeddings", "hidden", "attention")
TAKEN_TOGETHER = 64  # batches


class Imitation(nn.Module):
    """A student encoder and the learned projections of its states to the teacher's width.

    The projections serve the training alone. Where the widths agree they begin as the identity.
    """

    def __init__(self, student: nn.Module, teacher_width: int, projections: str):
        super().__init__()
        self.student = student
        width, states = student.config.hidden_size, student.config.num_hidden_layers + 1
        self.projections = nn.ModuleList(
            nn.Linear(width, teacher_width) for _ in range(1 if projections == "shared" else states)
        )
        if width == teacher_width:
            for projection in self.projections:
                nn.init.eye_(projection.weight)
                nn.init.zeros_(projection.bias)

    def forward(self, inputs: dict[str, Tensor], scores_of: list[int]) -> tuple[list[Tensor], list[Tensor]]:
        """States 0..M (0: the embedding output), each (B, S, teacher width), and the scores of the layers asked for."""
        states, scores = states_and_scores(self.student, inputs, scores_of)
        if len(self.projections) == 1:
            return [self.projections[0](state) for state in states], scores
        return [project(state) for project, state in zip(self.projections, states, strict=True)], scores


def states_and_scores(
    encoder: nn.Module, inputs: dict[str, Tensor], layers: list[int]
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """All hidden states of ``encoder`` and the attention scores of its ``layers`` (counting from 1), in one forward."""
    with attention_scores(layers) as scores:
        states = encoder(**inputs, output_hidden_states=True).hidden_states
    return states, [scores[layer] for layer in layers]


def intermediate_losses(
    imitation: Imitation,
    teacher_states,
    teacher_scores,
    inputs: dict[str, Tensor],
    layer_map: list[int],
    weights: Losses,
) -> dict[str, Tensor]:
    """The weighted parts of the intermediate loss (equations 7 to 9), each summed over its layers.

    Parts with weight 0 are left out. ``teacher_states`` are all of the teacher's, ``teacher_scores`` those of
    ``layer_map``.
    """
    mask = inputs["attention_mask"]
    student_layers = range(1, len(layer_map) + 1)
    states, scores = imitation(inputs, list(student_layers) if weights.attention else [])
    parts = {}
    if weights.embeddings:
        parts["embeddings"] = weights.embeddings * losses.hidden_loss(states[0], teacher_states[0], mask)
    if weights.hidden:
        pairs = zip(student_layers, layer_map, strict=True)
        parts["hidden"] = weights.hidden * sum(
            losses.hidden_loss(states[own], teacher_states[theirs], mask) for own, theirs in pairs
        )
    if weights.attention:
        pairs = zip(scores, teacher_scores, strict=True)
        parts["attention"] = weights.attention * sum(losses.attention_loss(own, theirs, mask) for own, theirs in pairs)
    return parts


class KeepLogits:
    """Takes the teacher's class logits as they fall out: they become ``logits``; some batches at a time, as to take
    them one by one would let a GPU wait for each.
    """

    def __init__(self, task: Task, logits: Logits):
        self.task, self.logits, self.waiting = task, logits, []

    def __call__(self, numbers: Tensor, logits: Tensor, kept: Tensor) -> None:
        """The numbers of a batch's sequences, the teacher's logits, and which of their rows count."""
        self.waiting.append((numbers, logits, kept))
        if len(self.waiting) == TAKEN_TOGETHER:
            self.take()

    def take(self) -> None:
        for numbers, logits, kept in self.waiting:
            self.logits.put(numbers.cpu().numpy(), logits, kept)
        self.waiting = []


class IntermediateTrainer(QuietTrainer):
    """Trains an ``Imitation`` on the intermediate losses. ``keep`` takes the teacher's logits that fall out."""

    can_be_replayed = True

    def __init__(self, *, teacher: nn.Module, layer_map: list[int], weights: Losses, keep: KeepLogits | None, **rest):
        super().__init__(**rest)
        self.teacher = our_attention(to_inference(teacher, self.args.precision, self.args.device))
        self.layer_map, self.weights, self.keep = layer_map, weights, keep
        self.shown |= {part: part for part in PARTS if getattr(weights, part)}
        self.sums, self.summed, self.waiting = dict.fromkeys(PARTS, 0.0), 0, []

    def counted(self, batch: dict[str, Tensor]) -> Tensor:
        """Positions, for embeddings and states; pairs of them, for attention scores."""
        lengths = batch["attention_mask"].sum(dim=1)
        return torch.stack([lengths.sum(), lengths.square().sum()])

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.keep is not None:
            self.keep(inputs["number"], self.noted.pop("logits"), inputs["kept"])
        self.waiting.append(self.noted)
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        for name in ("number", "kept"):
            inputs.pop(name, None)
        share = inputs.pop(SHARE, None)
        with torch.no_grad(), attention_scores(self.layer_map if self.weights.attention else []) as scores:
            outputs = self.teacher(**inputs, output_hidden_states=True)
        states, scores = outputs.hidden_states, [scores[layer] for layer in self.layer_map if layer in scores]
        parts = intermediate_losses(model, states, scores, inputs, self.layer_map, self.weights)
        if share is not None:
            parts = {name: part * share[int(name == "attention")] for name, part in parts.items()}
        self.noted = {name: part.detach() for name, part in parts.items()}
        if self.keep is not None:
            self.noted["logits"] = self.keep.task.class_logits(outputs)
        return sum(parts.values())

    def unlogged(self) -> dict:
        if self.keep is not None:
            self.keep.take()  # a checkpoint is of the logits too
        return {**super().unlogged(), "parts": self.mean_sums(), "summed": self.summed}

    def set_unlogged(self, kept: dict) -> None:
        super().set_unlogged(kept)
        self.sums, self.summed = kept["parts"], kept["summed"]

    def mean_sums(self) -> dict[str, float]:
        """Of each part, over the processes."""
        for parts in self.waiting:
            for name, part in parts.items():
                self.sums[name] += part.item()
        self.summed, self.waiting = self.summed + len(self.waiting), []
        sums = torch.tensor(list(self.sums.values()), dtype=torch.float64)
        return dict(zip(self.sums, launch.mean(sums).tolist(), strict=True))

    def log(self, logs, *rest, **more):
        if "loss" in logs and (self.summed or self.waiting):
            sums = self.mean_sums()
            logs |= {name: value / self.summed for name, value in sums.items()}
            self.sums, self.summed = dict.fromkeys(PARTS, 0.0), 0
        super().log(logs, *rest, **more)


def check_heads(student: nn.Module, teacher: nn.Module, weights: Losses, key: str) -> None:
    ours, theirs = student.config.num_attention_heads, teacher.config.num_attention_heads
    if weights.attention and ours != theirs:
        raise UserError(
            f"{key}.losses.attention: the student has {ours} heads, the teacher {theirs}: the attention loss compares"
            " head with head; set general_student.shape.heads to the teacher's, or this weight to 0"
        )


def imitate(
    student: nn.Module,
    teacher: nn.Module,
    data: Sequences | datasets.Dataset,
    tokenizer,
    settings: DistillIntermediate | GeneralDistillation,
    numerics: Numerics,
    key: str,
    keep: KeepLogits | None = None,
) -> Result:
    """Train ``student`` (an encoder) in place on the teacher's states and attention scores; keep the last epoch.

    The teacher is `frozen`.
    ``data`` has model inputs and, where ``keep`` is to take the teacher's outputs, ``number`` and ``kept``.
    The learning rate is constant, as in the paper.
    """
    check_heads(student, teacher, settings.losses, key)
    layer_map = map_layers(
        settings.layer_map, student.config.num_hidden_layers, teacher.config.num_hidden_layers, f"{key}.layer_map"
    )
    if not any(settings.losses.model_dump().values()):
        raise UserError(f"{key}.losses: all are 0: nothing would be learned; set epochs to 0 to leave the stage out")
    checkpoints.set_dropout(student, settings.dropout)
    transformers.set_seed(numerics.seed)
    imitation = Imitation(our_attention(student), teacher.config.hidden_size, settings.projections)

    def trained(folder: Path) -> Result:
        trainer = IntermediateTrainer(
            teacher=teacher,
            layer_map=layer_map,
            weights=settings.losses,
            keep=keep,
            model=imitation,
            args=arguments(
                folder,
                seed=numerics.seed,
                precision=numerics.precision,
                steps=steps_of(len(data), settings.epochs, settings.batch_size),
                batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
                num_train_epochs=settings.epochs,
                lr_scheduler_type="constant",
                ddp_find_unused_parameters=True,  # of an encoder's pooler nothing is asked
            ),
            train_dataset=data,
            data_collator=Collator(tokenizer, *(("number", "kept") if keep else ())),
        )
        trainer.go_on()
        if keep is not None:
            keep.take()
        return Result(float("nan"), settings.epochs, trainer.curves())

    return once("imitation", imitation, trained)


@torch.no_grad()
def fill_logits(teacher: nn.Module, task: Task, data: Sequences, tokenizer, logits: Logits, numerics: Numerics) -> None:
    """Compute the teacher's logits of the sequences that have none yet: some at a time, the longest of these first.
    Each process computes every so many-th batch.
    """
    launch.wait()
    parts = logits.first_missing()
    count = sum(map(len, parts))
    if not count:
        return
    log(f"teacher's logits of {count} rows")
    to_inference(teacher, numerics.precision, launch.device())
    collate = Collator(tokenizer, "kept")
    bar = tqdm(total=count, desc="teacher", unit="row", disable=launch.rank() > 0)
    with bar as progress, last_layer_first_position_only(task, teacher):
        for missing in parts:
            order = missing[np.argsort(-data.lengths[missing].astype(np.int32), kind="stable")]
            for batch_number, start in enumerate(range(0, len(order), EVALUATION_BATCH)):
                numbers = order[start : start + EVALUATION_BATCH]
                progress.update(len(numbers))
                if batch_number % launch.world_size() != launch.rank() or logits.known(numbers):
                    continue
                batch = collate(data.batch(numbers))
                batch = {name: values.to(teacher.device) for name, values in batch.items()}
                kept = batch.pop("kept")
                with autocast(numerics.precision, teacher.device):
                    logits.put(numbers, task.class_logits(teacher(**batch)), kept)
    launch.wait()


class LogitsCollator(Collator):
    """Puts the teacher's logits beside a batch's inputs, where its sequences have a ``number`` that leads there."""

    def __init__(self, tokenizer, logits: Logits):
        super().__init__(tokenizer, "number", "kept")
        self.logits = logits

    def __call__(self, features) -> dict[str, Tensor]:
        batch = super().__call__(features)
        if "number" in batch:
            batch["teacher_logits"] = self.logits.batch(batch.pop("number").numpy(), batch["kept"])
        else:
            batch.pop("kept")
        return batch


class PredictionTrainer(TaskTrainer):
    """Trains a student on the teacher's logits, at a temperature."""

    def __init__(self, *, temperature: float, **rest):
        super().__init__(**rest)
        self.loss, self.temperature = getattr(losses, self.task.loss), temperature

    def counted(self, batch: dict[str, Tensor]) -> Tensor:
        return self.task.compared(batch["kept"]).view(1)

    def loss_and_outputs(self, model, inputs: dict[str, Tensor]) -> tuple[Tensor, Any]:
        teacher, kept = inputs.pop("teacher_logits"), inputs.pop("kept")
        outputs = model(**inputs)
        return self.loss(self.task.class_logits(outputs), teacher, kept, self.temperature), outputs


def learn_labels(
    student: nn.Module,
    tokenizer,
    task: Task,
    labelled: list[Row],
    validation: EvaluationSet,
    settings: DistillPrediction,
    numerics: Numerics,
) -> Result:
    """Train ``student`` in place on labels, as if there were no prediction stage; keep the best epoch on validation."""
    checkpoints.set_dropout(student, settings.dropout)
    data = encode(task, labelled, tokenizer)
    rate = settings.learning_rate
    return train_to_best_epoch(
        TaskTrainer, student, Collator(tokenizer), task, data, validation, settings, numerics, rate
    )


def learn_logits(
    student: nn.Module,
    tokenizer,
    task: Task,
    data: Sequences,
    logits: Logits,
    validation: EvaluationSet,
    settings: DistillPrediction,
    numerics: Numerics,
) -> Result:
    """Train ``student`` in place on the teacher's ``logits`` of ``data``; keep the best epoch on validation."""
    checkpoints.set_dropout(student, settings.dropout)
    return train_to_best_epoch(
        partial(PredictionTrainer, temperature=settings.temperature),
        student,
        LogitsCollator(tokenizer, logits),
        task,
        data,
        validation,
        settings,
        numerics,
        settings.learning_rate,
    )
