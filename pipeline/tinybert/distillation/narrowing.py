"""Narrower feed-forward parts: each keeps the neurons that matter most on the task's own rows."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.tinybert.core.log import log, without_counts
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import inference
from pipeline.tinybert.models.batches import Collator
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.families import feed_forward, layers
from pipeline.tinybert.tasks import Task

MOST_PIECES = 16_384  # of the sample: a forward pass over it takes seconds on two cores
MOST_PADDED = 8_192  # word pieces of a batch, with padding


def encoded(task: Task, rows: list[Row], tokenizer) -> EncodedRows:
    """The first sequences of ``rows``, with at most ``MOST_PIECES`` word pieces."""
    with without_counts():
        sequences = EncodedRows.in_memory(inference.encode(task, rows, tokenizer))
    return sequences.select(np.flatnonzero(sequences.lengths.cumsum() <= MOST_PIECES))


def narrow(encoder: PreTrainedModel, width: int, sample: EncodedRows, tokenizer) -> None:
    """Keep the ``width`` strongest neurons of each feed-forward part.

    Strength: standard deviation of the activation on ``sample`` times the norm of the outgoing weights. The mean output
    of the dropped neurons goes into the bias, if there is one.
    """
    log(f"each feed-forward part keeps the {width} neurons that are strongest on {len(sample)} sequences of train")
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
    encoder: PreTrainedModel, parts: list[nn.Linear], sample: EncodedRows, tokenizer
) -> list[tuple[Tensor, Tensor]]:
    """Mean and standard deviation of the inputs of each of ``parts`` over the word pieces of ``sample``, (F,) each."""
    sums, squares = ([torch.zeros(part.in_features, dtype=torch.float64) for part in parts] for _ in range(2))
    mask = torch.empty(0)

    def add(number: int, given: tuple[Tensor]) -> None:
        activations = given[0][mask].double()
        sums[number] += activations.sum(0)
        squares[number] += activations.square().sum(0)

    hooks = [
        part.register_forward_pre_hook(lambda _, given, number=number: add(number, given))
        for number, part in enumerate(parts)
    ]
    collate = Collator(tokenizer)
    encoder.eval()
    for numbers in batches(sample.lengths):
        batch = collate(sample.batch(numbers))
        mask = batch["attention_mask"].bool()
        encoder(**{name: batch[name] for name in tokenizer.model_input_names})
    for hook in hooks:
        hook.remove()
    pieces = int(sample.lengths.sum())
    means = [total / pieces for total in sums]
    variances = [total / pieces - mean.square() for total, mean in zip(squares, means, strict=True)]
    return [
        (mean.float(), variance.clamp(min=0).sqrt().float()) for mean, variance in zip(means, variances, strict=True)
    ]


def batches(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of the sequences of each batch, from the longest to the shortest."""
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        count = max(1, min(inference.BATCH, MOST_PADDED // int(lengths[order[0]])))
        yield order[:count]
        order = order[count:]
