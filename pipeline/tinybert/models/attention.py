"""Our attention function for the library's models: it captures attention scores, and it is faster.

It is registered under a name, so that no model code changes. By default it calls the library's SDPA kernel.

On a CPU it computes attention explicitly (scores, softmax, weighted values) in three cases: if the scores of the layer
are captured, since SDPA would compute them a second time; in bfloat16 training, since the backward pass of torch's
kernel takes two to six times as long as the explicit one; and in training with dropout, since `models.dropout` is
faster than torch's dropout.

On a GPU captured scores are computed in addition to the kernel, which is still faster: explicit attention would read
and write the scores six more times. In bfloat16 the kernel is FlashAttention for sequences of different lengths. It
has no mask; padding, which is always at the end, is treated as a sequence of its own, and its output is not used.
"""

import contextlib
import contextvars
import functools
from collections.abc import Collection, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipeline.tinybert.models.dropout import drop_out
from pipeline.tinybert.models.families import FAMILIES, Family, layers

NAME = "tinybert"
Model = TypeVar("Model", bound=PreTrainedModel)
AMPERE = (8, 0)  # the first compute capability with FlashAttention
HEAD_SIZE_MULTIPLE = 8  # GPU kernels need head sizes that are a multiple of this; TinyBERT4's is 26, TinyBERT6's 64


class _Capture:
    """Attention scores of one forward pass. Layers call the attention function in order: the nth call is layer n."""

    def __init__(self, layers: Collection[int]):
        self.layers, self.layer = frozenset(layers), 0
        self.scores: dict[int, Tensor] = {}

    def next_layer(self) -> bool:
        """Count a layer's call. True if its scores are to be captured."""
        self.layer += 1
        return self.layer in self.layers


_active: contextvars.ContextVar[_Capture | None] = contextvars.ContextVar("capture", default=None)


@contextlib.contextmanager
def attention_scores(layers: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """Yield a dict that one forward of a model inside the block fills: layer (from 1) → attention scores (B, H, S, S).

    The model must use ``our_attention``. Scores are QKᵀ/√d, before mask and softmax, and carry gradients if the model
    is trained.
    """
    capture = _Capture(layers)
    token = _active.set(capture)
    try:
        yield capture.scores
    finally:
        _active.reset(token)


def our_attention(model: Model) -> Model:
    """Make ``model`` use this module's attention function, unless its family cannot; an MPNet's scores are captured all
    the same. On a GPU, outputs at padding differ from SDPA's.
    """
    family = FAMILIES.get(model.config.model_type)
    if family and not family.has_own_attention:
        model.set_attn_implementation(NAME)
    elif family:
        for block in layers(model.base_model):
            attention: Any = block.get_submodule(family.attention)
            if not hasattr(attention, "capturing"):
                attention.capturing = attention.register_forward_hook(_capture_of_mpnet)
    return model


def gives_scores(model: PreTrainedModel) -> bool:
    """Whether `attention_scores` captures those of this model's family."""
    return model.config.model_type in FAMILIES


def _capture_of_mpnet(attention: Any, inputs: tuple, outputs: Any) -> None:
    """Capture an MPNet layer's scores, with their bias for relative positions. Computes queries and keys once more."""
    capture = _active.get()
    if capture is None or not capture.next_layer():
        return
    states, _, position_bias = inputs
    queries, keys = (
        projection(states).unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)
        for projection in (attention.q, attention.k)
    )
    scores = queries * attention.attention_head_size**-0.5 @ keys.transpose(-1, -2)
    capture.scores[capture.layer] = scores + position_bias


def _attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **rest) -> tuple[Tensor, None]:
    """The attention function, with the signature that the library calls.

    query (B, H, Q, D), key and value (B, H, K, D), attention_mask (B, 1, Q, K), true where attention is allowed.
    Returns the attended values (B, Q, H, D), and None for the attention weights.
    """
    capture = _active.get()
    captured = capture is not None and capture.next_layer()
    explicit = _explicit_is_faster(query, captured, dropout)
    head_size = query.size(-1)
    scaling = head_size**-0.5 if scaling is None else scaling
    if query.device.type == "cuda" and head_size % HEAD_SIZE_MULTIPLE:
        padding = (0, -head_size % HEAD_SIZE_MULTIPLE)
        query, key, value = (nn.functional.pad(states, padding) for states in (query, key, value))
    if captured or explicit:
        scores = (query * scaling) @ key.transpose(-1, -2)
        if capture is not None and captured:
            capture.scores[capture.layer] = scores
        if explicit:
            return _attend_explicitly(scores, value, attention_mask, dropout), None
    # FlashAttention has no mask, and in a layer with local attention a position sees only a part of its sequence.
    segments = None if rest.get("sliding_window") else getattr(attention_mask, "segments", None)
    if segments is not None and query.dtype == torch.bfloat16:
        return _flash_attention(segments, query, key, value, dropout, scaling)[..., :head_size], None
    attended, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
    )
    return attended[..., :head_size], None


def _explicit_is_faster(query: Tensor, captured: bool, dropout: float) -> bool:
    training = query.requires_grad and (query.dtype == torch.bfloat16 or dropout > 0)
    return query.device.type == "cpu" and (captured or training)


def _attend_explicitly(scores: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attended values (B, Q, H, D) from scores (B, H, Q, K). ``dropout`` is 0 in evaluation, as for SDPA."""
    if mask is not None:  # to add is faster than to fill, forward and backward
        lowest = torch.finfo(scores.dtype).min
        scores = scores + torch.zeros(mask.shape, dtype=scores.dtype, device=mask.device).masked_fill_(~mask, lowest)
    weights = drop_out(scores.softmax(dim=-1), dropout)
    return (weights @ value).transpose(1, 2).contiguous()


def _flash_attention(
    segments: Tensor, query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float
) -> Tensor:
    """Attended values (B, Q, H, D), where each position attends within its segment (see ``segments_of``).

    Q is K, or 1: the first position of each sequence.
    """
    count, _, queries, _ = query.shape
    query_segments = segments
    if queries < key.size(2):  # one query for each sequence, none for its padding
        query_segments = (torch.arange(2 * count + 1, dtype=torch.int32, device=query.device) + 1) // 2
    packed = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    # torch's public function for this, torch.nn.attention.varlen.varlen_attn, has no dropout (as of torch 2.13: it
    # passes 0 to this same operator). Attention dropout is part of fine-tuning, so this calls the operator itself.
    attended, *_ = torch.ops.aten._flash_attention_forward(
        *packed, query_segments, segments, queries, key.size(2), dropout, False, False, scale=scaling
    )
    return attended.unflatten(0, (count, queries))


def _mask(
    *rest: Any,
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    allow_is_bidirectional_skip: bool = False,
    **more,
) -> Tensor | None:
    """The library's mask for SDPA, with the batch's ``segments`` as an attribute if the GPU has FlashAttention.

    The library omits a mask that masks nothing. On a GPU the mask is always built, because looking at its values would
    wait for the GPU.
    """
    on_gpu = torch.device(device).type == "cuda"
    skip = allow_is_bidirectional_skip and not on_gpu
    more |= {"attention_mask": attention_mask, "device": device, "allow_is_bidirectional_skip": skip}
    mask: Any = sdpa_mask(*rest, **more)
    if attention_mask is not None and on_gpu and _has_flash_attention():
        mask.segments = segments_of(attention_mask)
    return mask


@functools.cache
def _has_flash_attention() -> bool:
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability() >= AMPERE


def segments_of(mask: Tensor) -> Tensor:
    """Bounds (2 B + 1,) of the segments of a batch, for a mask (B, K) that is true at real positions.

    In the batch's flattened positions, each sequence is two segments: its real positions, then its padding.
    """
    count, length = mask.shape
    starts = torch.arange(0, count * length, length, dtype=torch.int32, device=mask.device)
    ends = torch.stack([starts + mask.sum(dim=-1, dtype=torch.int32), starts + length], dim=1)
    return torch.cat([starts.new_zeros(1), ends.flatten()])


@contextlib.contextmanager
def first_position_only(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, the last layer computes only the first position's state, (B, 1, D).

    This is all that a head for text classification reads; its logits are the same except for rounding. In the last
    layer only the key and value projections still run on all positions: one sixth of its multiplications, if the
    feed-forward size is four times the hidden size. Blocks may be nested. Models of families that cannot use this
    module's attention function, or have no module after it, compute all.
    """
    family = FAMILIES.get(model.config.model_type)
    if family is None or family.has_own_attention or not family.attention_end:
        yield
        return
    last = layers(model.base_model)[-1]
    attention = last.get_submodule(family.attention)
    if "forward" in vars(attention):  # inside another such block
        yield
        return
    implementation = model.config._attn_implementation
    our_attention(model)
    attention.forward = functools.partial(_attention_of_first_position, attention, family)
    # The inputs of this module are the attention's result, and the layer's input for the residual connection.
    hook = last.get_submodule(family.attention_end).register_forward_pre_hook(
        lambda module, inputs: tuple(states[:, :1] for states in inputs)
    )
    try:
        yield
    finally:
        hook.remove()
        del attention.forward
        model.set_attn_implementation(implementation)


def _attention_of_first_position(
    attention: Any, family: Family, hidden_states: Tensor, attention_mask: Tensor | None = None, **rest
) -> tuple[Tensor, None]:
    """The forward of the module ``attention``, with the first position as the only query."""
    inputs = hidden_states[:, :1], hidden_states, hidden_states
    queries, keys, values = (
        attention.get_submodule(name)(states).unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)
        for name, states in zip(family.queries_keys_values, inputs, strict=True)
    )
    dropout = attention.dropout.p if attention.training else 0.0
    mask: Any = None
    if attention_mask is not None:
        mask = attention_mask[:, :, :1]
        mask.segments = getattr(attention_mask, "segments", None)
    attended, _ = _attention(attention, queries, keys, values, mask, dropout, attention.scaling)
    attended = attended.flatten(2)
    if family.output_projection:
        attended = attention.get_submodule(family.output_projection)(attended)
    return attended, None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
