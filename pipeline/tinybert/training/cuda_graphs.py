"""Training steps on a GPU, recorded once for each shape of a batch and replayed from then on, as CUDA graphs.

A step of a small student has some thousand kernels of a few microseconds each, and a program takes longer to ask for
one than the GPU to compute it. A replay asks for all of them at once. It computes the same: kernels, order, dropout.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.tinybert.core.errors import UserError

VARIABLE = "TINYBERT_CUDA_GRAPHS"
Tensors = dict[str, Tensor]


def wanted(device: torch.device) -> bool:
    """On a GPU, unless the environment says otherwise: it is no parameter, because the result is the same."""
    return device.type == "cuda" and os.environ.get(VARIABLE, "1") != "0"


@dataclass
class Recorded:
    """A step as a GPU has recorded it: from where it reads its inputs, and where it leaves what it gives."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensors
    outputs: Tensors

    def __call__(self, inputs: Tensors) -> Tensors:
        torch._foreach_copy_(list(self.inputs.values()), [inputs[name] for name in self.inputs])
        self.graph.replay()
        return {name: values.clone() for name, values in self.outputs.items()}


class Replayed:
    """``step(inputs)`` adds to the gradients of ``model`` and gives tensors by name. It must not ask the GPU for a
    number; what it computes from beside its inputs and the model is ``given``.

    A shape that comes for the first time is computed as it is written, which also prepares what its kernels need; it
    is recorded where it comes again. All recorded steps share their memory.
    """

    def __init__(self, step: Callable[[Tensors], Tensors], model: nn.Module):
        self.step, self.parameters = step, [weight for weight in model.parameters() if weight.requires_grad]
        self.gradients: dict[nn.Parameter, Tensor] = {}
        self.stream, self.memory = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        self.recorded: dict[tuple, Recorded | None] = {}

    def __call__(self, inputs: Tensors, *given) -> Tensors:
        self.reset_gradients()
        shape = (*given, *((name, values.shape, values.dtype) for name, values in inputs.items()))
        if shape not in self.recorded:
            self.recorded[shape] = None
            outputs = self.computed(inputs)
            self.gradients = {weight: weight.grad for weight in self.parameters if weight.grad is not None}
            return outputs
        step = self.recorded[shape] = self.recorded[shape] or self.record(inputs)
        return step(inputs)

    def reset_gradients(self) -> None:
        """Where the Trainer has taken them away, as it does after each step of the optimiser: to 0, and to the same
        memory, into which the recorded steps add.
        """
        if self.gradients and all(weight.grad is None for weight in self.gradients):
            torch._foreach_zero_(list(self.gradients.values()))
            for weight, gradient in self.gradients.items():
                weight.grad = gradient

    def computed(self, inputs: Tensors) -> Tensors:
        now = torch.cuda.current_stream()
        self.stream.wait_stream(now)
        with torch.cuda.stream(self.stream):  # the one of recording, else autograd would mix it with another there
            outputs = self.step(inputs)
        now.wait_stream(self.stream)
        return outputs

    def record(self, inputs: Tensors) -> Recorded:
        own, graph = {name: values.clone() for name, values in inputs.items()}, torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.memory, stream=self.stream, capture_error_mode="thread_local"):
                outputs = self.step(own)
        except torch.OutOfMemoryError:
            raise  # a smaller batch helps, too: `stage.message` says so
        except RuntimeError as error:
            raise UserError(
                f"the GPU cannot record a training step of this model: {error}; set the environment variable"
                f" {VARIABLE}=0 to train without"
            ) from error
        return Recorded(graph, own, outputs)
