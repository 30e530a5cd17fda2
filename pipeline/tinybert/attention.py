"""Attention of the library's models, without touching its code: scores before softmax, and speed.

An attention function is registered by name. It hands a layer to the library's SDPA kernel, unless the scores of that
layer are asked for: then it computes them once, keeps them and attends with them. So it does, without keeping them,
where torch's kernel is slow: in bfloat16 on a CPU its backward pass takes two to six times as long as the plain one.
"""

import contextlib
import contextvars
from collections.abc import Collection, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipeline.tinybert import models

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


def _attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **rest) -> tuple[Tensor, None]:
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


@contextlib.contextmanager
def first_position_only(model: nn.Module) -> Iterator[None]:
    """Within the block, the last layer of ``model`` computes the state of the first position alone, (B, 1, D): all that
    a head over whole texts reads, the same but for rounding. Of that layer's products those to keys and values are
    left, a sixth of all where the feed-forward part is four times as wide as the model.
    """
    attends_by = model.config._attn_implementation
    family = models.FAMILIES[our_attention(model).config.model_type]
    last = models.layers(model.base_model)[-1]
    attention = last.get_submodule(family.attention)
    attention.forward = partial(_attention_of_first, attention, family)
    # What comes in: the attention's result, and the states that go past it.
    hook = last.get_submodule(family.attended).register_forward_pre_hook(
        lambda module, inputs: tuple(states[:, :1] for states in inputs)
    )
    try:
        yield
    finally:
        hook.remove()
        del attention.forward
        model.set_attn_implementation(attends_by)


def _attention_of_first(
    attention: nn.Module, family: models.Family, hidden_states: Tensor, attention_mask: Tensor | None = None, **rest
) -> tuple[Tensor, None]:
    """The forward of a layer's ``attention`` with one query."""
    read = hidden_states[:, :1], hidden_states, hidden_states
    queries, keys, values = (
        attention.get_submodule(name)(states).unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)
        for name, states in zip(family.queries_keys_values, read, strict=True)
    )
    dropout = attention.dropout.p if attention.training else 0.0
    mask = None if attention_mask is None else attention_mask[:, :, :1]
    states, _ = _attention(attention, queries, keys, values, mask, dropout, attention.scaling)
    states = states.flatten(2)
    return (attention.get_submodule(family.output_projection)(states) if family.output_projection else states), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
