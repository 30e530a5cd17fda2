"""Fine-tuning a model on labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
from pipeline.tinybert.training import calibration
from pipeline.tinybert.training.embeddings_in_use import embeddings_in_use
from pipeline.tinybert.training.loop import Batch, Collate, Objective, Tensors, train_or_load
from pipeline.tinybert.training.plan import Plan, Result, Validation

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import Numerics, Schedule
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
    temperature: float = 1.0  # by which the logits were divided
    member_scores: list[float] = field(default_factory=list)  # of several teachers; result.score: their mean logits'


@dataclass(frozen=True)
class Training:
    """A training that is scored on validation after each epoch."""

    objective: Objective
    data: EncodedRows
    collate: Collate
    validation: EvaluationSet
    settings: Schedule
    numerics: Numerics
    stage: str  # for messages
    name: str = "training"  # of the run, for resuming

    def best(self, new_model: Callable[[], PreTrainedModel]) -> Trained:
        """Train a new model with each learning rate of the settings; return the one with the best ``task.metric`` on
        validation, calibrated on validation if the settings ask for it.
        """
        best, trials = None, {}
        for rate in self.settings.learning_rates:
            model = new_model()
            checkpoints.set_dropout(model, self.settings.dropout)
            result = self.train(model, rate)
            trials[f"{rate:g}"] = round(result.score, DIGITS)
            metric = self.validation.task.metric
            log(f"learning rate {rate:g}: {metric} {result.score:.4f} on validation, epoch {result.epoch}")
            if best is None or result.score > best.result.score:
                best = Trained(model, result, rate, trials)
        assert best is not None
        return calibrated(best, self.validation) if self.settings.calibrate else best

    def train(self, model: PreTrainedModel, learning_rate: float) -> Result:
        """Train ``model`` in place."""
        task, settings = self.validation.task, self.settings
        plan = Plan.of(self.stage, settings, self.numerics, learning_rate=learning_rate)
        watched = Validation(task.metric, lambda: score(model, self.validation), len(self.validation.rows))
        padding = self.validation.tokenizer.pad_token_id
        with last_layer_first_position_only(task, model), embeddings_in_use(model, self.data, padding):
            return train_or_load(
                f"{self.name}-{learning_rate:g}", self.objective, model, self.data, self.collate, plan, watched
            )


def score(model: PreTrainedModel, validation: EvaluationSet) -> float:
    """The ``task.metric`` of ``model`` on ``validation``."""
    with pytorch_forward(validation.task, model) as forward:
        return validation.score(validation.logits(forward))[validation.task.metric]


def calibrated(trained: Trained, validation: EvaluationSet) -> Trained:
    """The same model with its logits divided by the temperature that fits ``validation``."""
    with pytorch_forward(validation.task, trained.model) as forward:
        temperature = calibration.temperature(validation, validation.logits(forward))
    if temperature == 1:
        return trained
    calibration.divide_logits(trained.model, temperature)
    log(f"calibrated on {len(validation.rows)} rows of validation: the logits are divided by {temperature:.3g}")
    return replace(trained, temperature=temperature)


def fine_tune(
    new_model: Callable[[], PreTrainedModel],
    train_rows: list[Row],
    validation: EvaluationSet,
    settings: Schedule,
    numerics: Numerics,
    stage: str,
    class_weights: list[float] | None = None,
    name: str = "training",
) -> Trained:
    """A model with the head of the task, trained on labels. ``name``: of the run, for resuming."""
    task, tokenizer = validation.task, validation.tokenizer
    data = EncodedRows.in_memory(encode(task, train_rows, tokenizer))
    objective = LabelObjective(task, class_weights)
    return Training(objective, data, Collator(tokenizer), validation, settings, numerics, stage, name).best(new_model)


def write_result(metrics: Path, task: Task, trained: Trained) -> None:
    """``plots`` and ``validation.json`` of a training stage."""
    result = trained.result
    curves.write(metrics, result.curves)
    values: dict[str, Any] = {task.metric: round(result.score, DIGITS), "epoch": result.epoch}
    values |= {"rows": result.rows, "steps": result.steps}
    if trained.trials:
        values |= {"learning_rate": trained.learning_rate, "trials": trained.trials}
        values |= {"temperature": round(trained.temperature, DIGITS)}
    if trained.member_scores:
        values["teachers"] = [round(score, DIGITS) for score in trained.member_scores]
    write_json(metrics / "validation.json", values)
