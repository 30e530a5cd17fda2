"""Training for a task: encoding rows, fine-tuning on labels, the best epoch, predicting."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback

from pipeline.tinybert.core import curves
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.output import write_json
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.attention import first_position_only
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.training.loop import QuietTrainer, Result, arguments, once, steps_of

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import Numerics
    from pipeline.tinybert.tasks import Task


class TaskTrainer(QuietTrainer):
    """A Trainer of a task's model: whatever its head, evaluation gives class logits (sequences, P, C)."""

    can_be_replayed = True

    def __init__(self, *, task: Task, **rest):
        super().__init__(**rest)
        self.task = task
        if self.args.num_train_epochs > 1:  # the score of one epoch is no curve
            self.shown[f"eval_{task.metric}"] = f"validation_{task.metric}"

    def loss_and_outputs(self, model, inputs: dict[str, Tensor]) -> tuple[Tensor, Any]:
        outputs = model(**inputs)
        return self.task.label_loss(outputs, inputs), outputs

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        targets = inputs.get("labels", inputs.get("start_positions"))
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        return outputs.get("loss"), self.task.class_logits(outputs), targets


class WeightedTrainer(TaskTrainer):
    """Fine-tunes with a weight for each class in the loss."""

    def __init__(self, *, weights: list[float], **rest):
        super().__init__(**rest)
        self.weights = torch.tensor(weights, device=self.args.device)

    def counted(self, batch: dict[str, Tensor]) -> Tensor:
        labels = batch["labels"]
        return self.weights[labels[labels != -100]].sum().view(1)

    def loss_and_outputs(self, model, inputs: dict[str, Tensor]) -> tuple[Tensor, Any]:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        logits = self.task.class_logits(outputs).flatten(0, 1).float()
        return cross_entropy(logits, labels.flatten(), self.weights), outputs


def last_layer_first_position_only(task: Task, model: nn.Module) -> contextlib.AbstractContextManager:
    """Within the block, ``model`` computes of its last layer only what the head of the task's kind reads."""
    return first_position_only(model) if task.of_first_position else contextlib.nullcontext()


def columns(task: Task, rows: list[Row], tokenizer) -> dict[str, list]:
    """Rows as model inputs: what ``Task.encode`` gives, once the task's length is one that the model takes."""
    if task.max_length > tokenizer.model_max_length:
        raise UserError(
            f"max_length: {task.max_length}: the model takes {tokenizer.model_max_length} word-pieces: set the task's"
            " max_length to that or less"
        )
    return task.encode(rows, tokenizer)


def encode(task: Task, rows: list[Row], tokenizer) -> datasets.Dataset:
    """Rows as a data set of model inputs with their ``length``."""
    encoded = columns(task, rows, tokenizer)
    return datasets.Dataset.from_dict({**encoded, "length": [len(ids) for ids in encoded["input_ids"]]})


class EvaluationSet:
    """Rows that a model is scored on, and their encoded form; ``by_length`` has it in an order that pads little."""

    def __init__(self, task: Task, rows: list[Row], tokenizer):
        self.task, self.rows, self.data = task, rows, encode(task, rows, tokenizer)
        self.order = np.argsort(-np.asarray(self.data["length"]), kind="stable")
        self.by_length = self.data.select(self.order)

    def in_order(self, logits: np.ndarray) -> np.ndarray:
        """Class logits of ``by_length`` in the order of ``data``."""
        return logits[np.argsort(self.order)]

    def kept(self, logits: np.ndarray) -> list[np.ndarray]:
        """Of class logits (sequences, P, C), in order, padded to the longest P: those that count, (kept, C) each."""
        return [row[np.flatnonzero(mask)] for row, mask in zip(logits, self.data["kept"], strict=True)]

    def predictions(self, logits: np.ndarray) -> list:
        """One answer for each row from such class logits."""
        return self.task.predictions(self.kept(logits), self.data, self.rows)

    def score(self, logits: np.ndarray) -> dict[str, float]:
        """Every metric; where answers need a threshold, at the best one for these rows."""
        predictions = self.predictions(logits)
        threshold = self.task.threshold(self.rows, predictions)
        return self.task.score(self.rows, self.task.decided(predictions, threshold))


def train_to_best_epoch(
    make_trainer: Callable[..., QuietTrainer],
    model: nn.Module,
    collator: Collator,
    task: Task,
    train: Dataset,
    validation: EvaluationSet,
    settings,
    numerics: Numerics,
    learning_rate: float,
) -> Result:
    """Train ``model`` in place and leave it as it was after the epoch with the best ``task.metric`` on validation."""

    def score(prediction) -> dict[str, float]:
        return {task.metric: validation.score(validation.in_order(prediction.predictions))[task.metric]}

    def trained(folder: Path) -> Result:
        steps = steps_of(len(train), settings.epochs, settings.batch_size, settings.accumulation)
        trainer = make_trainer(
            model=model,
            args=arguments(
                folder,
                seed=numerics.seed,
                precision=numerics.precision,
                steps=steps,
                batch_size=settings.batch_size,
                learning_rate=learning_rate,
                num_train_epochs=settings.epochs,
                gradient_accumulation_steps=settings.accumulation,
                activation_checkpointing=settings.checkpointing,
                warmup_steps=settings.warmup,
                weight_decay=settings.weight_decay,
                eval_strategy="epoch",
                save_strategy="epoch",
                load_best_model_at_end=True,
                metric_for_best_model=f"eval_{task.metric}",
                greater_is_better=True,
            ),
            train_dataset=train,
            eval_dataset=validation.by_length,
            data_collator=collator,
            compute_metrics=score,
            task=task,
            callbacks=[EarlyStoppingCallback(settings.patience)] if settings.patience else None,
        )
        with last_layer_first_position_only(task, model):
            trainer.go_on()
        evaluated = [entry for entry in trainer.state.log_history if f"eval_{task.metric}" in entry]
        best = max(evaluated, key=lambda entry: entry[f"eval_{task.metric}"])
        return Result(
            score=best[f"eval_{task.metric}"],
            epoch=round(best["epoch"]),
            curves=trainer.curves(),
        )

    return once(f"training-{learning_rate:g}", model, trained)


def fine_tune(
    folder: str | Path,
    tokenizer,
    task: Task,
    train_rows: list[Row],
    validation_rows: list[Row],
    settings,
    numerics: Numerics,
    learning_rate: float,
    dropout: float | None = None,
    weighted: bool = False,
) -> tuple[nn.Module, Result]:
    """The encoder of ``folder`` with a new head, trained on labels, at its best epoch on validation.

    weighted: rare labels count as much as frequent ones.
    """
    model = task.load_model(folder, numerics.seed)
    checkpoints.set_dropout(model, dropout)
    make_trainer = partial(WeightedTrainer, weights=task.class_weights(train_rows)) if weighted else TaskTrainer
    result = train_to_best_epoch(
        make_trainer,
        model,
        Collator(tokenizer),
        task,
        encode(task, train_rows, tokenizer),
        EvaluationSet(task, validation_rows, tokenizer),
        settings,
        numerics,
        learning_rate,
    )
    return model, result


def predict(model: nn.Module, tokenizer, scored: EvaluationSet) -> np.ndarray:
    """The class logits (sequences, P, C), in order, without gradient, in evaluation mode and in float32."""
    with tempfile.TemporaryDirectory() as nothing:
        options = arguments(nothing, seed=0, precision="float32", steps=1, batch_size=1, learning_rate=1.0)
        trainer = TaskTrainer(model=model, args=options, data_collator=Collator(tokenizer), task=scored.task)
        with last_layer_first_position_only(scored.task, model):
            return scored.in_order(trainer.predict(scored.by_length).predictions)


def score_as_it_is(model: nn.Module, scored: EvaluationSet, tokenizer) -> Result:
    """What a training run would report of ``model``, which needs none."""
    score = scored.score(predict(model, tokenizer, scored))[scored.task.metric]
    return Result(score=score, epoch=0, curves={})


def make_predictor(task: Task, model: nn.Module, tokenizer) -> Callable[[list[Row]], tuple[list, list[np.ndarray]]]:
    """A function from rows to what ``model`` answers to each, and its class logits (kept, C) of each sequence."""

    def answers(rows: list[Row]) -> tuple[list, list[np.ndarray]]:
        scored = EvaluationSet(task, rows, tokenizer)
        logits = predict(model, tokenizer, scored)
        return scored.predictions(logits), scored.kept(logits)

    return answers


def write_result(metrics: Path, task: Task, result: Result, **more) -> None:
    """``plots`` and ``validation.json`` of a training stage."""
    curves.write(metrics, result.curves)
    write_json(metrics / "validation.json", {task.metric: round(result.score, 4), "epoch": result.epoch, **more})
