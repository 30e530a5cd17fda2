"""Attention of the library's models, without touching its code: scores before softmax, and speed.

An attention function is registered by name. It hands a layer to the library's SDPA kernel. Where the scores of that
layer are asked for, a CPU computes them once, keeps them and attends with them. So it does, without keeping them, where
torch's kernel is slow: in bfloat16 its backward pass takes two to six times as long as the plain one.

A GPU computes scores that are asked for beside its kernel, which is faster than what would be left to do with them: to
read and write them six times. In bfloat16 its kernel is FlashAttention, which knows no mask. Padding, which comes last
here, is attended to as a sequence of its own: what it becomes is of no interest.
"""

import contextlib
import contextvars
import functools
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipeline.tinybert.models.families import FAMILIES, Family, layers

NAME = "tinybert"
AMPERE = (8, 0)  # from which on GPUs have FlashAttention
KERNELS_TAKE = 8  # a GPU's are for heads of a multiple of this size; TinyBERT4's have 26, TinyBERT6's 64


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
    """Let ``model`` attend by this module's function. Same outputs as with SDPA, but those of padding on a GPU."""
    model.set_attn_implementation(NAME)
    return model


def _attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **rest) -> tuple[Tensor, None]:
    """States (B, Q, H, D) of queries (B, H, Q, D), keys and values (B, H, K, D), and a mask (B, 1, Q, K)."""
    capture = _active.get()
    if capture is not None:
        capture.calls += 1
    asked = capture is not None and capture.calls in capture.layers
    plainly, size = _plainly_is_faster(query, asked), query.size(-1)
    segments = getattr(attention_mask, "segments", None)
    scaling = size**-0.5 if scaling is None else scaling
    if query.device.type == "cuda" and size % KERNELS_TAKE:
        query, key, value = (nn.functional.pad(states, (0, -size % KERNELS_TAKE)) for states in (query, key, value))
    if asked or plainly:
        scores = (query * scaling) @ key.transpose(-1, -2)
    if asked:
        capture.scores[capture.calls] = scores
    if segments is not None and query.dtype == torch.bfloat16:
        return _attention_within(segments, query, key, value, dropout, scaling)[..., :size], None
    if not plainly:
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        return attended[..., :size], None
    if attention_mask is not None:  # true where attention is allowed
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = nn.functional.dropout(scores.softmax(dim=-1), p=dropout)  # 0 in evaluation, as for the library's kernels
    return (weights @ value).transpose(1, 2).contiguous(), None


def _plainly_is_faster(query: Tensor, scores_are_there: bool) -> bool:
    learns = query.requires_grad and query.dtype == torch.bfloat16
    return query.device.type == "cpu" and (scores_are_there or learns)


def _attention_within(
    segments: Tensor, query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float
) -> Tensor:
    """States (B, Q, H, D), each of what is attended to within its segment."""
    count, _, queries, _ = query.shape
    of_queries = segments
    if queries < key.size(2):  # the first of each sequence, and none of its padding
        of_queries = (torch.arange(2 * count + 1, dtype=torch.int32, device=query.device) + 1) // 2
    packed = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    attended, *_ = torch.ops.aten._flash_attention_forward(
        *packed, of_queries, segments, queries, key.size(2), dropout, False, False, scale=scaling
    )
    return attended.unflatten(0, (count, queries))


def _mask(
    *rest,
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    allow_is_bidirectional_skip: bool = False,
    **more,
) -> Tensor | None:
    """The library's mask. On a GPU also where it masks nothing: to know that, the program would have to wait for it."""
    on_gpu = torch.device(device).type == "cuda"
    skip = allow_is_bidirectional_skip and not on_gpu
    mask = sdpa_mask(*rest, attention_mask=attention_mask, device=device, allow_is_bidirectional_skip=skip, **more)
    if attention_mask is not None and on_gpu and _has_flash_attention():
        mask.segments = segments_of(attention_mask)
    return mask


@functools.cache
def _has_flash_attention() -> bool:
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability() >= AMPERE


def segments_of(kept: Tensor) -> Tensor:
    """Where the segments of a batch end, (2 B + 1,), from 0: what is kept of each sequence (B, K), and its padding."""
    count, length = kept.shape
    begins = torch.arange(0, count * length, length, dtype=torch.int32, device=kept.device)
    ends = torch.stack([begins + kept.sum(dim=-1, dtype=torch.int32), begins + length], dim=1)
    return torch.cat([begins.new_zeros(1), ends.flatten()])


@contextlib.contextmanager
def first_position_only(model: nn.Module) -> Iterator[None]:
    """Within the block, the last layer of ``model`` computes the state of the first position alone, (B, 1, D): all that
    a head over whole texts reads, the same but for rounding. Of that layer's products those to keys and values are
    left, a sixth of all where the feed-forward part is four times as wide as the model.
    """
    attends_by = model.config._attn_implementation
    family = FAMILIES[our_attention(model).config.model_type]
    last = layers(model.base_model)[-1]
    attention = last.get_submodule(family.attention)
    attention.forward = functools.partial(_attention_of_first, attention, family)
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
    attention: nn.Module, family: Family, hidden_states: Tensor, attention_mask: Tensor | None = None, **rest
) -> tuple[Tensor, None]:
    """The forward of a layer's ``attention`` with one query."""
    read = hidden_states[:, :1], hidden_states, hidden_states
    queries, keys, values = (
        attention.get_submodule(name)(states).unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)
        for name, states in zip(family.queries_keys_values, read, strict=True)
    )
    dropout = attention.dropout.p if attention.training else 0.0
    mask = None
    if attention_mask is not None:
        mask = attention_mask[:, :, :1]
        mask.segments = getattr(attention_mask, "segments", None)
    states, _ = _attention(attention, queries, keys, values, mask, dropout, attention.scaling)
    states = states.flatten(2)
    return (attention.get_submodule(family.output_projection)(states) if family.output_projection else states), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
