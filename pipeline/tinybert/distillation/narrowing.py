"""Narrower feed-forward parts: each keeps the neurons that matter most on the task's own rows."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.tinybert.core.log import log
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import inference
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.families import feed_forward, layers
from pipeline.tinybert.tasks import Task

MOST_ROWS, MOST_PIECES = 512, 16_384  # measured; a forward pass over them takes seconds on two cores


def sample(task: Task, train: list[Row], tokenizer, seed: int) -> EncodedRows:
    """Sequences of rows drawn at random: of at most ``MOST_ROWS`` rows, with at most ``MOST_PIECES`` word pieces."""
    order = np.random.default_rng(seed).permutation(len(train))[:MOST_ROWS]
    encoded = EncodedRows.in_memory(inference.encode(task, [train[number] for number in order], tokenizer))
    return encoded.select(np.flatnonzero(encoded.lengths.cumsum() <= MOST_PIECES))


def narrow(encoder: PreTrainedModel, width: int, sample: EncodedRows, tokenizer) -> None:
    """Keep the ``width`` strongest neurons of each feed-forward part.

    Strength: standard deviation of the activation on ``sample`` times the norm of the outgoing weights. The mean output
    of the dropped neurons goes into the bias, if there is one.
    """
    log(f"keeping the {width} strongest neurons of each feed-forward part, measured on {len(sample)} texts of train")
    parts = [feed_forward(block, encoder.config.model_type) for block in layers(encoder)]
    measured = _activations(encoder, [down for _, down in parts], sample, tokenizer)
    for (up, down), (mean, deviation) in zip(parts, measured, strict=True):
        strength = deviation * down.weight.norm(dim=0)
        kept, dropped = strength.argsort(descending=True, stable=True).tensor_split([width])
        kept = kept.sort().values
        rows = torch.cat([kept + first for first in range(0, up.out_features, down.in_features)])  # also of the gates
        up.weight.data = up.weight[rows]
        if up.bias is not None:
            up.bias.data = up.bias[rows]
        if down.bias is not None:
            down.bias.data += down.weight[:, dropped] @ mean[dropped]
        down.weight.data = down.weight[:, kept]


@torch.no_grad()
def _activations(
    encoder: PreTrainedModel, parts: list[nn.Module], sample: EncodedRows, tokenizer
) -> list[tuple[Tensor, Tensor]]:
    """Mean and standard deviation of the inputs of each of ``parts`` over the word pieces of ``sample``, (F,) each."""
    inputs: dict[nn.Module, Tensor] = {}
    hooks = [part.register_forward_pre_hook(lambda part, given: inputs.update({part: given[0]})) for part in parts]
    sums: list[Any] = [0.0] * len(parts)
    squares: list[Any] = [0.0] * len(parts)
    collate = Collator(tokenizer)
    encoder.eval()
    order = np.argsort(-sample.lengths, kind="stable")
    for start in range(0, len(order), inference.BATCH):
        batch = collate(sample.batch(order[start : start + inference.BATCH]))
        encoder(**{name: batch[name] for name in tokenizer.model_input_names})
        mask = batch["attention_mask"].bool()
        for number, part in enumerate(parts):
            activations = inputs[part][mask].double()
            sums[number] = sums[number] + activations.sum(0)
            squares[number] = squares[number] + activations.square().sum(0)
    for hook in hooks:
        hook.remove()
    pieces = int(sample.lengths.sum())
    means = [total / pieces for total in sums]
    variances = [total / pieces - mean.square() for total, mean in zip(squares, means, strict=True)]
    return [
        (mean.float(), variance.clamp(min=0).sqrt().float()) for mean, variance in zip(means, variances, strict=True)
    ]
