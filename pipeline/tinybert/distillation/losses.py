"""The losses of TinyBERT (Jiao et al. 2020, arXiv 1909.10351, section 3.1): pure functions of tensors and a mask.

Shapes: B sequences of S positions, width D of the states (D' the teacher's, where it may differ), H heads, P positions
with logits, C classes.
Each is a mean, in float32, over what the mask keeps, so it does not depend on padding.
"""

import functools
import importlib.util

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax, softmax

from pipeline.tinybert.core.log import log

VALUES_PER_BLOCK = {"cpu": 1 << 20}  # fits a processor's cache
VALUES_PER_BLOCK_ELSEWHERE = 1 << 28


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of hidden states (equations 8 and 9), the embedding output included.

    student: (B, S, D), already projected to the teacher's width. teacher: (B, S, D).
    mask: (B, S), true where a position is real. Returns a scalar.
    """
    return _SquaredError.apply(student, teacher, mask.bool())


def attention_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of attention scores before softmax (equation 7), over real query and key pairs.

    student, teacher: (B, H, S, S), QKᵀ/√d. mask: (B, S). Returns a scalar.
    """
    return _SquaredError.apply(student, teacher, mask.bool())


def relation_loss(student: Tensor, teacher: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Divergence of the student's self-attention relations from the teacher's (MiniLMv2, arXiv 2012.15828, equation 5).

    student, teacher: queries, keys or values (B, S, D) and (B, S, D') of one layer; both widths are multiples of
    ``heads``. A relation is softmax(VVᵀ/√d) of the vectors V of one of ``heads`` relation heads. mask: (B, S). Mean
    over heads and real positions. Returns a scalar.
    """
    real = mask.bool()

    def log_relations(vectors: Tensor) -> Tensor:
        split = vectors.float().unflatten(-1, (heads, -1)).transpose(1, 2)
        with torch.autocast(vectors.device.type, enabled=False):  # it would compute the product in bfloat16
            scores = split @ split.mT / split.size(-1) ** 0.5
        return log_softmax(scores.masked_fill(~real[:, None, None], torch.finfo(torch.float32).min), dim=-1)

    ours, theirs = log_relations(student), log_relations(teacher)
    divergence = (theirs.exp() * (theirs - ours)).sum(dim=-1)  # (B, heads, S)
    return masked_mean(divergence.mean(dim=1), real)


def soft_cross_entropy(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of the student's class distribution against the teacher's (equation 10).

    student, teacher: (…, C) logits. mask: (…), true where a row counts. Summed over classes, mean over rows.
    No T² factor and no hard labels, as in the paper. Returns a scalar.
    """
    target = softmax(teacher.float() / temperature, dim=-1)
    rows = -(target * log_softmax(student.float() / temperature, dim=-1)).sum(dim=-1)
    return masked_mean(rows, mask)


def soft_binary_cross_entropy(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of each label's probability against the teacher's: equation 10 for labels that may occur together.

    student, teacher: (…, C) logits. mask: (…), true where a row counts. Summed over labels, mean over rows.
    """
    target = (teacher.float() / temperature).sigmoid()
    labels = binary_cross_entropy_with_logits(student.float() / temperature, target, reduction="none")
    return masked_mean(labels.sum(dim=-1), mask)


def span_cross_entropy(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Soft cross-entropy of an answer's start and of its end, over the positions that the mask keeps.

    student, teacher: (B, P, 2) logits of start and end. mask: (B, P), true at positions of the passage. Summed over
    positions, mean over sequences, start and end.
    """
    left_out = ~mask.bool().unsqueeze(-1)
    smallest = torch.finfo(torch.float32).min
    student, teacher = (
        (logits.float() / temperature).masked_fill(left_out, smallest).transpose(1, 2) for logits in (student, teacher)
    )
    rows = -(softmax(teacher, dim=-1) * log_softmax(student, dim=-1).masked_fill(left_out.transpose(1, 2), 0)).sum(-1)
    return rows.mean()


def mean_squared_error(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """For regression: mean squared error of the student's numbers (…, C) against the teacher's. mask: (…).

    ``temperature`` has no effect: a number is not a distribution that could be softened.
    """
    return masked_mean((student.float() - teacher.float()).square().mean(dim=-1), mask)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values that the mask (same shape) keeps; 0, with a gradient of 0, where it keeps none."""
    kept = mask.to(values.dtype)
    return torch.where(mask.bool(), values, 0.0).sum() / kept.sum().clamp(min=1)


@functools.cache
def _triton_works() -> bool:
    """Triton comes with torch for Linux. To launch kernels, it needs a C compiler and Python's headers."""
    if importlib.util.find_spec("triton") is None:
        return False
    one = torch.ones(1, 1, 1, device="cuda")
    try:
        return _kernels().squared_error(one, 2 * one, one[0]).item() == 1
    except Exception as error:  # Triton raises many kinds; if the GPU itself failed, earlier steps would have shown it
        log(f"Triton does not work, so the losses use torch's own, slower operations: {str(error).splitlines()[0]}")
        return False


class _SquaredError(Function):
    """Mean of (student − teacher)² over what the mask keeps; 0 where it keeps none.

    student, teacher: (B, S, D), or (B, H, S, S), where the mask must keep both query and key. mask: (B, S).

    The attention scores of long sequences are the largest tensors of a training step. With torch's own operations,
    their differences and squares would take as much memory again, in float32. On a CPU this computes them for a block
    of the batch that fits the cache, and keeps only the gradient for the backward pass. On a GPU they stay in
    registers.
    """

    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        of_pairs, lengths = student.dim() == 4, mask.sum(dim=-1)
        count = (lengths.square() if of_pairs else lengths).sum() * student.size(1 if of_pairs else -1)
        count = count.clamp(min=1)
        ctx.in_registers = student.device.type == "cuda" and _triton_works()
        if ctx.in_registers:
            ctx.save_for_backward(student, teacher, mask, count)
            return _kernels().squared_error(student, teacher, mask) / count
        kept = (mask.unsqueeze(1) & mask.unsqueeze(2)).unsqueeze(1) if of_pairs else mask.unsqueeze(-1)
        gradient = torch.empty_like(student) if student.requires_grad else None
        total = torch.zeros((), device=student.device)
        size = max(1, VALUES_PER_BLOCK.get(student.device.type, VALUES_PER_BLOCK_ELSEWHERE) // student[0].numel())
        for begin in range(0, len(student), size):
            block = slice(begin, begin + size)
            difference = student[block].to(torch.float32, copy=True)
            difference.sub_(teacher[block]).masked_fill_(~kept[block], 0)
            if gradient is not None:
                torch.mul(difference, 2 / count, out=gradient[block])
            total += difference.square_().sum()
        ctx.save_for_backward(gradient)
        return total / count

    @staticmethod
    def backward(ctx, upstream: Tensor):
        if ctx.in_registers:
            student, teacher, mask, count = ctx.saved_tensors
            return _kernels().gradient(student, teacher, mask, upstream / count), None, None
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None


def _kernels():
    from pipeline.tinybert.distillation import squared_error

    return squared_error
