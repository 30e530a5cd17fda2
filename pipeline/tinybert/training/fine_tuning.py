"""Fine-tuning a model on labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from pipeline.tinybert.core import curves, launch
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
    from pipeline.tinybert.core.settings import Numerics
    from pipeline.tinybert.tasks import Task

IGNORED = -100


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


def train_to_best_epoch(
    objective: Objective,
    model: PreTrainedModel,
    data: EncodedRows,
    collate: Collate,
    validation: EvaluationSet,
    settings,
    numerics: Numerics,
    stage: str,
    learning_rate: float,
) -> Result:
    """Train ``model`` in place. It ends with the weights of the epoch with the best ``task.metric`` on validation."""
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
        accumulation=settings.accumulation,
        checkpointing=settings.checkpointing,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        patience=settings.patience,
    )
    with last_layer_first_position_only(task, model):
        return train_or_load(
            f"training-{learning_rate:g}", objective, model, data, collate, plan, Validation(task.metric, score)
        )


def fine_tune(
    folder: str | Path,
    tokenizer,
    task: Task,
    train_rows: list[Row],
    validation: EvaluationSet,
    settings,
    numerics: Numerics,
    stage: str,
    learning_rate: float,
    class_weights: list[float] | None = None,
) -> tuple[PreTrainedModel, Result]:
    """The encoder of ``folder`` with a new head, trained on labels."""
    model = task.load_model(folder, numerics.seed)
    checkpoints.set_dropout(model, settings.dropout)
    result = train_to_best_epoch(
        LabelObjective(task, class_weights),
        model,
        EncodedRows.in_memory(encode(task, train_rows, tokenizer)),
        Collator(tokenizer),
        validation,
        settings,
        numerics,
        stage,
        learning_rate,
    )
    return model, result


def score_as_it_is(model: PreTrainedModel, validation: EvaluationSet) -> Result:
    """The result of a model that needs no training."""
    with pytorch_forward(validation.task, model) as forward:
        score = validation.score(validation.logits(forward))[validation.task.metric]
    return Result(score=score, epoch=0, curves={})


def write_result(metrics: Path, task: Task, result: Result, **more) -> None:
    """``plots`` and ``validation.json`` of a training stage."""
    curves.write(metrics, result.curves)
    write_json(metrics / "validation.json", {task.metric: round(result.score, 4), "epoch": result.epoch, **more})
