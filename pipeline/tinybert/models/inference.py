"""Inference: one loop for validation, teacher logits, ONNX files and single rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel

from pipeline.tinybert.core import launch
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log_count
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models.attention import first_position_only, our_attention
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.models.encoded_rows import Columns, EncodedRows
from pipeline.tinybert.models.precision import autocast
from pipeline.tinybert.models.unread_words import count_unread

if TYPE_CHECKING:
    from pipeline.tinybert.models.alignment import SecondReading
    from pipeline.tinybert.tasks import Task

BATCH = 64  # sequences of one forward pass in inference
Forward = Callable[[dict[str, Tensor]], Tensor]  # model inputs → class logits (B, P, C)


def encode(task: Task, rows: list[Row], tokenizer, with_spans: bool = False) -> Columns:
    """Rows as model inputs (`Task.encode`). Raises UserError if ``max_length`` is more than the model takes."""
    if task.max_length > tokenizer.model_max_length:
        raise UserError(
            f"max_length: {task.max_length}: the model takes {tokenizer.model_max_length} word pieces: set the task's"
            " max_length to that or less"
        )
    if not rows:
        raise UserError("a file of rows in data/<task>/prepared is empty: run `dvc repro`, which writes it again")
    columns = task.encode(rows, tokenizer, with_spans)
    pieces, unknown, letters = count_unread(columns["input_ids"], tokenizer)
    mostly = int((2 * (unknown + letters) > pieces).sum())
    log_count(
        mostly,
        len(pieces),
        "texts are mostly unknown word pieces or single letters: is the encoder for their language?",
    )
    return columns


def last_layer_first_position_only(task: Task, model: PreTrainedModel) -> contextlib.AbstractContextManager:
    """Inside the block, the last layer of ``model`` computes only what the task's head reads."""
    return first_position_only(model) if task.uses_first_position_only else contextlib.nullcontext()


@contextlib.contextmanager
def pytorch_forward(task: Task, model: PreTrainedModel, precision: str = "float32") -> Iterator[Forward]:
    """A function from model inputs to class logits, in evaluation mode and without gradients."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()

    def forward(inputs: dict[str, Tensor]) -> Tensor:
        inputs = {name: values.to(device) for name, values in inputs.items()}
        with torch.no_grad(), autocast(precision, device):
            return task.class_logits(model(**inputs))

    with last_layer_first_position_only(task, our_attention(model)):
        yield forward
    model.train(was_training)


def class_logits(
    forward: Forward,
    encoded: EncodedRows,
    tokenizer,
    numbers: np.ndarray,
    batch_size: int = BATCH,
    progress: tqdm | None = None,
    skip: Callable[[np.ndarray], bool] = lambda numbers: False,
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """For each batch: its sequences' numbers (B,), class logits (B, P, C) and label mask (B, P).

    The longest sequences come first, so that batches need little padding and an out-of-memory error shows on the first
    batch. Each process computes its share of the batches. ``skip`` tells which batches need not be computed.
    """
    order = numbers[np.argsort(-encoded.lengths[numbers].astype(np.int32), kind="stable")]
    all_batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    own: Any = [batch for batch in all_batches[launch.rank() :: launch.world_size()] if not skip(batch)]
    on_gpu = torch.cuda.is_available()
    collate: Any = Collator(tokenizer, "label_mask", "number")
    for batch in DataLoader(encoded, batch_sampler=own, collate_fn=collate, pin_memory=on_gpu):
        inputs = {name: batch[name] for name in tokenizer.model_input_names}
        yield batch["number"].numpy(), forward(inputs), batch["label_mask"]
        if progress is not None:
            progress.update(len(batch["number"]))


class EvaluationSet:
    """Labelled rows to score a model on, encoded once."""

    def __init__(self, task: Task, rows: list[Row], tokenizer):
        self.task, self.rows, self.tokenizer = task, rows, tokenizer
        self.columns = encode(task, rows, tokenizer)
        self.encoded = EncodedRows.in_memory(self.columns)

    def logits(
        self, forward: Forward, batch_size: int = BATCH, description: str = "", reading: SecondReading | None = None
    ) -> list[np.ndarray]:
        """For each sequence, in order: the class logits of the positions that count, (positions, C).

        reading: the sequences as the model of ``forward`` reads them, if it has another tokenizer.
        """
        numbers = np.arange(len(self.encoded))
        own: dict[int, np.ndarray] = {}
        compute: Any = partial(reading.class_logits, self.task) if reading else class_logits
        with tqdm(total=len(numbers), desc=description, leave=False, disable=not description) as progress:
            found = compute(forward, self.encoded, self.tokenizer, numbers, batch_size=batch_size, progress=progress)
            for chosen, logits, mask in found:
                values, masks = logits.float().cpu().numpy(), mask.numpy()
                own |= {int(number): row[at] for number, row, at in zip(chosen, values, masks, strict=True)}
        return [logits for _, logits in sorted(launch.gather(own.items()))]

    def predictions(self, logits: list[np.ndarray]) -> list:
        """One prediction for each row, before the threshold."""
        return self.task.predictions(logits, self.columns, self.rows)

    def answers(self, logits: list[np.ndarray]) -> list:
        """One prediction for each row, after the threshold (if the kind needs one) that is best for these rows."""
        predictions = self.predictions(logits)
        return self.task.apply_threshold(predictions, self.task.best_threshold(self.rows, predictions))

    def score(self, logits: list[np.ndarray]) -> dict[str, float]:
        """Every metric of ``answers``."""
        return self.task.score(self.rows, self.answers(logits))
