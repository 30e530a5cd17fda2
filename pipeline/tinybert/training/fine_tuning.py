"""Fine-tuning a model on labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from pipeline.tinybert.core import curves, launch
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import write_json
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.inference import (
    EvaluationSet,
    encode,
    last_layer_first_position_only,
    pytorch_forward,
)
from pipeline.tinybert.training.loop import Batch, Collate, Objective, Plan, Result, Tensors, Validation, train_or_load

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import FinetuneStudent, FinetuneTeacher, Numerics, Schedule
    from pipeline.tinybert.tasks import Task

IGNORED = -100
DIGITS = 4


class LabelObjective(Objective):
    """The task's own loss on labels; with ``class_weights`` (C,) the cross-entropy weighted by class."""

    def __init__(self, task: Task, class_weights: list[float] | None = None):
        self.task = task
        # On the device already: a CUDA graph cannot copy from the CPU's memory.
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, device=launch.device())

    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensors, Tensors]:
        if self.class_weights is None:
            return {"loss": self.task.label_loss(model(**batch), batch)}, {}
        labels = batch.pop("labels")
        logits = self.task.class_logits(model(**batch)).flatten(0, 1).float()
        return {"loss": cross_entropy(logits, labels.flatten(), self.class_weights)}, {}

    def counts(self, batch: Batch) -> Tensors:
        labels = batch.get("labels")
        if labels is None:
            return {"loss": rows_in(batch)}
        if self.class_weights is not None:
            return {"loss": self.class_weights[labels[labels != IGNORED]].sum()}
        by_word = labels.dim() == 2 and not labels.is_floating_point()
        return {"loss": labels.ne(IGNORED).sum() if by_word else rows_in(batch)}


def rows_in(batch: Batch) -> Tensor:
    """The number of rows, a scalar. ``torch.tensor`` would wait for the GPU to copy it."""
    ids = batch["input_ids"]
    return torch.full((), len(ids), device=ids.device)


@dataclass(frozen=True)
class Trained:
    """The best of several trials, one for each learning rate of the settings."""

    model: PreTrainedModel
    result: Result
    learning_rate: float | None = None
    trials: dict[str, float] = field(default_factory=dict)  # learning rate → its score on validation


def train_best(
    new_model: Callable[[], PreTrainedModel],
    objective: Objective,
    data: EncodedRows,
    collate: Collate,
    validation: EvaluationSet,
    settings: Schedule,
    numerics: Numerics,
    stage: str,
) -> Trained:
    """Train a new model with each learning rate of ``settings``; return the one with the best ``task.metric`` on
    validation.
    """
    best, trials = None, {}
    for rate in settings.learning_rates:
        model = new_model()
        checkpoints.set_dropout(model, settings.dropout)
        result = _train_to_best_epoch(
            objective, model, data, collate, validation, settings, numerics, stage, learning_rate=rate
        )
        trials[f"{rate:g}"] = round(result.score, DIGITS)
        log(f"learning rate {rate:g}: {validation.task.metric} {result.score:.4f} on validation, epoch {result.epoch}")
        if best is None or result.score > best.result.score:
            best = Trained(model, result, rate, trials)
    assert best is not None
    return best


def _train_to_best_epoch(
    objective: Objective,
    model: PreTrainedModel,
    data: EncodedRows,
    collate: Collate,
    validation: EvaluationSet,
    settings: Schedule,
    numerics: Numerics,
    stage: str,
    learning_rate: float,
) -> Result:
    """Train ``model`` in place."""
    task = validation.task

    def score() -> float:
        with pytorch_forward(task, model) as forward:
            return validation.score(validation.logits(forward))[task.metric]

    plan = Plan(
        stage=stage,
        seed=numerics.seed,
        precision=numerics.precision,
        batch_size=settings.batch_size,
        learning_rate=learning_rate,
        epochs=settings.epochs,
        min_steps=settings.min_steps,
        accumulation=settings.accumulation,
        checkpointing=settings.checkpointing,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        patience=settings.patience,
    )
    watched = Validation(task.metric, score, len(validation.rows))
    with last_layer_first_position_only(task, model):
        return train_or_load(f"training-{learning_rate:g}", objective, model, data, collate, plan, watched)


def fine_tune(
    folder: str | Path,
    tokenizer,
    task: Task,
    train_rows: list[Row],
    validation: EvaluationSet,
    settings: FinetuneTeacher | FinetuneStudent,
    numerics: Numerics,
    stage: str,
    class_weights: list[float] | None = None,
) -> Trained:
    """The encoder of ``folder`` with a new head, trained on labels."""
    data = EncodedRows.in_memory(encode(task, train_rows, tokenizer))
    return train_best(
        lambda: task.load_model(folder, numerics.seed),
        LabelObjective(task, class_weights),
        data,
        Collator(tokenizer),
        validation,
        settings,
        numerics,
        stage,
    )


def score_as_it_is(model: PreTrainedModel, validation: EvaluationSet) -> Trained:
    """A model that needs no training."""
    with pytorch_forward(validation.task, model) as forward:
        score = validation.score(validation.logits(forward))[validation.task.metric]
    return Trained(model, Result(score=score, epoch=0, rows=0, steps=0, curves={}))


def write_result(metrics: Path, task: Task, trained: Trained) -> None:
    """``plots`` and ``validation.json`` of a training stage."""
    result = trained.result
    curves.write(metrics, result.curves)
    values: dict[str, Any] = {task.metric: round(result.score, DIGITS), "epoch": result.epoch}
    values |= {"rows": result.rows, "steps": result.steps}
    if trained.trials:
        values |= {"learning_rate": trained.learning_rate, "trials": trained.trials}
    write_json(metrics / "validation.json", values)
