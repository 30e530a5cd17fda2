"""Dropout for training on a CPU, in a sixth of the time of torch's.

torch draws a random number of 53 bits for each value, on one core. With the attention weights of 128 word pieces, that
took half of the time of a teacher's training step. 16 bits for each value are enough: 65,536 probabilities.
"""

from typing import Any

import numpy
import torch
from torch import Tensor, nn

BIT_PATTERNS = 2**16  # of 16 bits


def drop_out(values: Tensor, probability: float) -> Tensor:
    """Zero each value with this probability, rounded to 1/65,536, and scale the others so that the mean stays.

    torch's generator seeds the random bits: the same state of it gives the same result.
    """
    if values.device.type != "cpu":
        return nn.functional.dropout(values, probability)
    zeroed = round(probability * BIT_PATTERNS)
    if zeroed == BIT_PATTERNS:
        return values * 0
    return _Dropout.apply(values, zeroed) if zeroed else values


def our_dropout(model: nn.Module) -> None:
    """Make all dropout layers of ``model`` use `drop_out`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, _Layer(child.p).train(child.training))


class _Layer(nn.Dropout):
    def forward(self, input: Tensor) -> Tensor:
        return drop_out(input, self.p) if self.training else input


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, zeroed: int) -> Tensor:
        """``zeroed``: of 65,536 values, the number that become zero on average."""
        kept = torch.ge(_random_bits(values.shape), zeroed - BIT_PATTERNS // 2, out=torch.empty_like(values))
        factors = kept.mul_(BIT_PATTERNS / (BIT_PATTERNS - zeroed))
        ctx.save_for_backward(factors)
        return values * factors

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        [factors] = ctx.saved_tensors
        return gradients[0] * factors, None


def _random_bits(shape: torch.Size) -> Tensor:
    """16 random bits for each value, as int16. numpy's generator is twice as fast as torch's."""
    seed = int(torch.randint(2**62, ()))
    words = numpy.random.SFC64(seed).random_raw(shape.numel() // 4 + 1)
    return torch.from_numpy(words.view(numpy.int16))[: shape.numel()].view(shape)
