"""Training steps on a GPU as CUDA graphs: recorded once for each shape of a batch, replayed from then on.

A step of a small student launches about 1,000 kernels of a few microseconds each, and launching one takes the program
longer than the GPU needs to compute it. A replay launches all of them together. It computes the same kernels in the
same order, with the same dropout.
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
    """True on a GPU, unless TINYBERT_CUDA_GRAPHS=0. It does not change the result, so it is no parameter."""
    return device.type == "cuda" and os.environ.get(VARIABLE, "1") != "0"


@dataclass
class Recorded:
    """A recorded step. It reads and writes the same memory at each replay: ``inputs`` and ``outputs``."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensors
    outputs: Tensors

    def __call__(self, inputs: Tensors) -> Tensors:
        """Copies of the outputs, because the next replay of any step overwrites them."""
        torch._foreach_copy_(list(self.inputs.values()), [inputs[name] for name in self.inputs])
        self.graph.replay()
        return {name: values.clone() for name, values in self.outputs.items()}


class Replayed:
    """Calls ``step(inputs)``, which adds to the gradients of ``model`` and returns tensors by name.

    The first batch of a shape is computed as written, which also prepares its kernels. The second one is recorded, and
    all further ones are replayed. All recordings share their memory.

    ``step`` must not read a value back from the GPU, nor copy one from the CPU's memory. It may depend only on the
    model and on the names, shapes and values of ``inputs``.
    """

    def __init__(self, step: Callable[[Tensors], Tensors], model: nn.Module):
        self.step, self.parameters = step, [weight for weight in model.parameters() if weight.requires_grad]
        self.gradients: dict[nn.Parameter, Tensor] = {}
        self.stream, self.memory = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        self.recorded: dict[tuple, Recorded | None] = {}

    def __call__(self, inputs: Tensors) -> Tensors:
        self.reset_gradients()
        shape = tuple((name, values.shape, values.dtype) for name, values in inputs.items())
        if shape not in self.recorded:
            self.recorded[shape] = None
            outputs = self.computed(inputs)
            self.gradients = {weight: weight.grad for weight in self.parameters if weight.grad is not None}
            return outputs
        step = self.recorded[shape] = self.recorded[shape] or self.record(inputs)
        return step(inputs)

    def reset_gradients(self) -> None:
        """Give the weights back their gradients, set to 0, if the optimizer's ``zero_grad`` has removed them: recorded
        steps add into the memory that they had.
        """
        if self.gradients and all(weight.grad is None for weight in self.gradients):
            torch._foreach_zero_(list(self.gradients.values()))
            for weight, gradient in self.gradients.items():
                weight.grad = gradient

    def computed(self, inputs: Tensors) -> Tensors:
        now = torch.cuda.current_stream()
        self.stream.wait_stream(now)
        # On the stream of recording: autograd runs a gradient's addition on the stream where it was first added.
        with torch.cuda.stream(self.stream):
            outputs = self.step(inputs)
        now.wait_stream(self.stream)
        return outputs

    def record(self, inputs: Tensors) -> Recorded:
        own, graph = {name: values.clone() for name, values in inputs.items()}, torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.memory, stream=self.stream, capture_error_mode="thread_local"):
                outputs = self.step(own)
        except torch.OutOfMemoryError:
            raise  # `errors.message` advises a smaller batch
        except RuntimeError as error:
            raise UserError(
                f"the GPU cannot record a training step of this model: {error}; set the environment variable"
                f" {VARIABLE}=0 to train without"
            ) from error
        return Recorded(graph, own, outputs)
