"""The losses of TinyBERT (Jiao et al. 2020, arXiv 1909.10351, section 3.1): pure functions of tensors and a mask.

Shapes: B sequences of S positions, D teacher width, H and H' heads, N rows of C classes.
All are computed in float32 and are means over what the mask keeps, so padding a batch more changes none of them.
"""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softmax


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of hidden states (equations 8 and 9), the embedding output included.

    student: (B, S, D), already projected to the teacher's width. teacher: (B, S, D).
    mask: (B, S), true where a position is real. Returns a scalar.
    """
    squares = (student.float() - teacher.float()).square().mean(dim=-1)
    return masked_mean(squares, mask)


def attention_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of attention scores before softmax (equation 7), over real query and key pairs.

    student, teacher: (B, H, S, S), QKᵀ/√d. mask: (B, S). Returns a scalar.
    """
    squares = (student.float() - teacher.float()).square().mean(dim=1)
    return masked_mean(squares, mask.bool().unsqueeze(1) & mask.bool().unsqueeze(2))


def soft_cross_entropy(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of the student's class distribution against the teacher's (equation 10).

    student, teacher: (N, C) logits. mask: (N,), true where a row counts. Summed over classes, mean over rows.
    No T² factor and no hard labels, as in the paper. Returns a scalar.
    """
    target = softmax(teacher.float() / temperature, dim=-1)
    rows = -(target * log_softmax(student.float() / temperature, dim=-1)).sum(dim=-1)
    return masked_mean(rows, mask)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values that the mask (same shape) keeps; 0, with a gradient of 0, where it keeps none."""
    kept = mask.to(values.dtype)
    return torch.where(mask.bool(), values, 0.0).sum() / kept.sum().clamp(min=1)
