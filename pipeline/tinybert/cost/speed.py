"""How fast this machine computes a model's layers: a few steps of small models of the same widths are timed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModel

from pipeline.tinybert.core import launch
from pipeline.tinybert.core.settings import Shape
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.attention import our_attention
from pipeline.tinybert.models.dropout import our_dropout
from pipeline.tinybert.models.precision import autocast, name_of, to_inference

Mode = Literal["train", "validate", "infer"]  # a step; a forward pass; the same after `to_inference`
PIECES = 768  # word pieces of a timed batch
SHALLOW, DEEP = 1, 3  # layers of the timed models
RUNS = 3  # the fastest counts: other programs can only slow a run down
SHORTEST = 16  # word pieces
WITHOUT_TRAINING = 1000  # embeddings


@dataclass(frozen=True)
class Speed:
    """Seconds of each batch (or step) outside its layers; seconds of one layer for each word piece, and for each unit
    of a sequence's squared length.
    """

    per_batch: float
    per_piece: float
    per_squared_length: float

    def seconds(self, batches: float, layers: float, pieces: float, squared_lengths: float) -> float:
        """``pieces``, ``squared_lengths``: sums over all sequences of the length in word pieces and of its square."""
        per_layer = pieces * self.per_piece + squared_lengths * self.per_squared_length
        return batches * self.per_batch + layers * per_layer


class Machine:
    """Measures each model and mode once."""

    def __init__(self, config: Any, precision: str):
        """``config``: of the encoder. ``precision``: of training."""
        self.config, self.precision, self.device = config, precision, launch.device()
        self.known: dict[tuple, Speed] = {}

    def __str__(self) -> str:
        where = f"{torch.get_num_threads()} threads" if self.device.type == "cpu" else torch.cuda.get_device_name()
        return f"{where}, training in {name_of(self.precision, self.device)}"

    def speed(
        self, shape: Shape, length: int, mode: Mode, precision: str, vocabulary: int, dropout: float | None = None
    ) -> Speed:
        """The speed of models of these widths around a typical ``length`` of a sequence in word pieces.
        ``vocabulary``: how many embeddings a step trains.
        """
        vocabulary = vocabulary if mode == "train" else WITHOUT_TRAINING
        key = shape.hidden, shape.heads, shape.feed_forward, length, mode, precision, vocabulary, dropout
        if key not in self.known:
            self.known[key] = self._measured(shape, length, mode, precision, vocabulary, dropout)
        return self.known[key]

    def _measured(
        self, shape: Shape, length: int, mode: Mode, precision: str, vocabulary: int, dropout: float | None
    ) -> Speed:
        """Fit: seconds of a batch = per_batch + layers · rows · (per_piece · length + per_squared_length · length²).

        Models of 1 and 3 layers at length L give the time of a layer and of the rest; the 3-layer model at 2 L
        separates the linear from the quadratic term.
        """
        limit = self.config.max_position_embeddings - 2
        short = min(max(length, SHORTEST), limit // 2)
        long = 2 * short
        rows = max(1, PIECES // short)
        shallow, deep = (_model(self.config, shape, layers, vocabulary, dropout) for layers in (SHALLOW, DEEP))
        with_shallow, with_deep = (self._time(model, rows, short, mode, precision) for model in (shallow, deep))
        layer_at_short = max(with_deep - with_shallow, 0.01 * with_deep) / (DEEP - SHALLOW)
        per_batch = max(with_shallow - SHALLOW * layer_at_short, 0)
        fewer_rows = max(1, rows // 2)
        layer_at_long = max(self._time(deep, fewer_rows, long, mode, precision) - per_batch, 0) / DEEP
        # Each of these is per_piece + per_squared_length * length.
        per_piece_at_short, per_piece_at_long = layer_at_short / rows / short, layer_at_long / fewer_rows / long
        per_squared_length = max(per_piece_at_long - per_piece_at_short, 0) / (long - short)
        return Speed(per_batch, max(per_piece_at_short - per_squared_length * short, 0), per_squared_length)

    def _time(self, model: Any, rows: int, length: int, mode: Mode, precision: str) -> float:
        ids = torch.randint(1, model.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
        inputs = {"input_ids": ids.to(self.device), "attention_mask": torch.ones_like(ids).to(self.device)}
        make = self._step if mode == "train" else self._forward
        run = make(model, inputs, mode, precision)
        return min(self.seconds_of(run) for _ in range(1 + RUNS))

    def seconds_of(self, run: Callable[[], None]) -> float:
        """On a CPU, the processor time of the main thread, which takes part in all work: on a busy machine, most of the
        elapsed time is waiting for other programs.
        """
        clock = time.perf_counter if self.device.type == "cuda" else time.thread_time
        start = clock()
        run()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    def _step(self, model: nn.Module, inputs: dict, mode: Mode, precision: str) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(model.to(self.device).train().parameters(), fused=True)

        def run() -> None:
            with autocast(precision, self.device):
                states = model(**inputs).last_hidden_state
            states.float().square().mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return run

    def _forward(self, model: nn.Module, inputs: dict, mode: Mode, precision: str) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad(), autocast(precision, self.device):
                model(**inputs)

        if mode == "infer" and model.training:
            to_inference(model, precision, self.device)
        model.to(self.device).eval()
        return run


def _model(config: Any, shape: Shape, layers: int, vocabulary: int, dropout: float | None) -> nn.Module:
    """A random encoder of these widths. The size of its vocabulary affects only the optimizer's time."""
    config = copy.deepcopy(config)
    checkpoints.set_shape(config, shape.model_copy(update={"layers": layers}))
    config.vocab_size = min(config.vocab_size, vocabulary)
    with torch.random.fork_rng():
        model = our_attention(AutoModel.from_config(config, dtype=torch.float32))
    checkpoints.set_dropout(model, dropout)
    our_dropout(model)
    return model.train()
