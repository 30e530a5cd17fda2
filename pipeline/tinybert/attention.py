"""Attention of any model of the library, without touching its code: scores before softmax, and speed in training.

An attention function is registered by name. It hands a layer to the library's SDPA kernel, unless the scores of that
layer are asked for: then it computes them once, keeps them and attends with them. So it does, without keeping them,
where torch's kernel is slow: in bfloat16 on a CPU its backward pass takes two to six times as long as the plain one.
"""

import contextlib
import contextvars
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "tinybert"


class _Capture:
    def __init__(self, layers: Collection[int]):
        self.layers, self.scores, self.calls = frozenset(layers), {}, 0


_active: contextvars.ContextVar[_Capture | None] = contextvars.ContextVar("capture", default=None)


@contextlib.contextmanager
def attention_scores(layers: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """Within the block, one forward of a model that attends by ``our_attention`` fills the yielded dict.

    Layers count from 1. The scores, layer → (B, H, S, S), are QKᵀ/√d before softmax and before the mask, with gradient
    where the model has one.
    """
    capture = _Capture(layers)
    token = _active.set(capture)
    try:
        yield capture.scores
    finally:
        _active.reset(token)


def our_attention(model: nn.Module) -> nn.Module:
    """Let ``model`` attend by this module's function. Same outputs as with SDPA."""
    model.set_attn_implementation(NAME)
    return model


def attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **rest) -> tuple[Tensor, None]:
    """States (B, Q, H, D) of queries (B, H, Q, D), keys and values (B, H, K, D), and a mask (B, 1, Q, K)."""
    capture = _active.get()
    if capture is not None:
        capture.calls += 1
    asked = capture is not None and capture.calls in capture.layers
    if not (asked or _plainly_is_faster(query)):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
    scale = query.size(-1) ** -0.5 if scaling is None else scaling
    scores = (query * scale) @ key.transpose(-1, -2)
    if asked:
        capture.scores[capture.calls] = scores
    if attention_mask is not None:  # true where attention is allowed
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = nn.functional.dropout(scores.softmax(dim=-1), p=dropout)  # 0 in evaluation, as for the library's kernels
    return (weights @ value).transpose(1, 2).contiguous(), None


def _plainly_is_faster(query: Tensor) -> bool:
    return query.requires_grad and query.dtype == torch.bfloat16 and query.device.type == "cpu"


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
