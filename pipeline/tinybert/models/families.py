"""Model families: where each keeps its layers, attention and heads. ``FAMILIES`` are those of encoders and students,
``TEACHER_FAMILIES`` further ones that only a teacher may have, since nothing looks at its attention.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pipeline.tinybert.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class TeacherFamily:
    """What has to be known of any model.

    feed_forward: the configuration's name for the feed-forward size.
    reserved_positions: positions that cannot hold a token (RoBERTa counts positions from its padding id).
    prefix: the library's name for the body in a model with a head; "": the family's name.
    has_positions: whether position embeddings bound the length of a text, and are among the weights.
    layers: the encoder's list of layers. Names of submodules are relative to one layer.
    attention: the attention module.
    queries_keys_values: its three projections, or the one that makes all three.
    tanh_layer: of a model that classifies texts, the linear layer between the first hidden state and tanh; "": none.
    """

    feed_forward: str = "intermediate_size"
    reserved_positions: int = 0
    prefix: str = ""
    has_positions: bool = True
    layers: str = "encoder.layer"
    attention: str = "attention.self"
    queries_keys_values: tuple[str, ...] = ("query", "key", "value")
    tanh_layer: str = ""


@dataclass(frozen=True)
class Family(TeacherFamily):
    """Names of a family's submodules and settings. Names below ``layers`` are relative to one layer.

    head: applies the masked language model's head: (model, hidden states (N, D)) → logits (N, V).
    output_projection: its fourth projection, if it applies one itself.
    attention_end: the module that ends the attention part. Its inputs are the attention's result and the layer's input,
        as an argument or already added. "": no module does.
    feed_forward_projections: the two projections of the feed-forward part.
    has_own_attention: whether the library's model computes attention itself, without an attention function.
    """

    head: Callable[[Any, Tensor], Tensor]
    output_projection: str | None = None
    attention_end: str = "attention.output"
    feed_forward_projections: tuple[str, str] = ("intermediate.dense", "output.dense")
    has_own_attention: bool = False


FAMILIES = {
    "bert": Family(lambda model, hidden: model.cls(hidden), tanh_layer="bert.pooler.dense"),
    "roberta": Family(lambda model, hidden: model.lm_head(hidden), reserved_positions=2, tanh_layer="classifier.dense"),
    "xlm-roberta": Family(
        lambda model, hidden: model.lm_head(hidden),
        reserved_positions=2,
        prefix="roberta",
        tanh_layer="classifier.dense",
    ),
    "electra": Family(lambda model, hidden: model.generator_lm_head(model.generator_predictions(hidden))),
    "distilbert": Family(
        lambda model, hidden: model.vocab_projector(
            model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
        ),
        layers="transformer.layer",
        attention="attention",
        queries_keys_values=("q_lin", "k_lin", "v_lin"),
        output_projection="out_lin",
        attention_end="sa_layer_norm",
        feed_forward="hidden_dim",
        feed_forward_projections=("ffn.lin1", "ffn.lin2"),
    ),
    "mpnet": Family(
        lambda model, hidden: model.lm_head(hidden),
        reserved_positions=2,
        attention="attention.attn",
        queries_keys_values=("q", "k", "v"),
        attention_end="attention.LayerNorm",
        has_own_attention=True,
        tanh_layer="classifier.dense",
    ),
    "modernbert": Family(
        lambda model, hidden: model.decoder(model.head(hidden)),
        prefix="model",
        has_positions=False,
        layers="layers",
        attention="attn",
        queries_keys_values=("Wqkv",),
        attention_end="",
        feed_forward_projections=("mlp.Wi", "mlp.Wo"),
    ),
}
TEACHER_FAMILIES = {
    "deberta-v2": TeacherFamily(
        prefix="deberta", has_positions=False, queries_keys_values=("query_proj", "key_proj", "value_proj")
    ),
    "albert": TeacherFamily(
        layers="encoder.albert_layer_groups.0.albert_layers", attention="attention", tanh_layer="albert.pooler"
    ),
}


def family_of(config) -> TeacherFamily:
    """The family of a model's configuration. Raises KeyError for an unknown one."""
    return {**FAMILIES, **TEACHER_FAMILIES}[config.model_type]


def check_family(config, key: str, is_teacher: bool = False) -> None:
    """Raise UserError, which names the setting ``key``, for a model of another family, or for a decoder."""
    family, known = config.model_type, [*FAMILIES, *(TEACHER_FAMILIES if is_teacher else ())]
    if getattr(config, "is_decoder", False):
        raise UserError(f"{key}: is_decoder is true in config.json: expected an encoder, which reads a text both ways")
    if family in TEACHER_FAMILIES and not is_teacher:
        raise UserError(
            f"{key}: model family '{family}' is supported for a teacher only (finetune_teacher.encoder): expected one"
            f" of {', '.join(known)}"
        )
    if family not in known:
        raise UserError(f"{key}: model family '{family}' is not supported: expected one of {', '.join(known)}")


def local_layers(config) -> set[int]:
    """The layers, from 1, in which a position sees only those near it (ModernBERT)."""
    kinds = getattr(config, "layer_types", None) or []
    return {number for number, kind in enumerate(kinds, 1) if kind == "sliding_attention"}


def layers(encoder: nn.Module) -> nn.ModuleList:
    """The Transformer layers of an encoder (a model without a head)."""
    config: Any = encoder.config
    found: Any = encoder.get_submodule(family_of(config).layers)
    return found


def read_states_directly(model: nn.Module, missing: Container[str] | None = None) -> None:
    """Initialise the linear layer before tanh of a new text classifier as the identity, so that the head reads the
    first hidden state itself. With ``missing``: only if the layer's weight is among these.

    The layer that a checkpoint brings is of another task, or random: on few rows, a new start is better (Zhang et al.
    2021, arXiv 2006.05987, section 5). The states are small, where tanh is almost linear.
    """
    config: Any = model.config
    name = family_of(config).tanh_layer
    if name and (missing is None or f"{name}.weight" in missing):
        layer: Any = model.get_submodule(name)
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)


class LastVectors:
    """Records the queries, keys and values (B, S, D) of an encoder's last layer in each forward pass."""

    def __init__(self, encoder: nn.Module):
        family = family_of(encoder.config)
        self.names, self.latest = family.queries_keys_values, dict[str, Tensor]()
        attention = layers(encoder)[-1].get_submodule(family.attention)
        for name in self.names:
            attention.get_submodule(name).register_forward_hook(functools.partial(self._keep, name))

    def _keep(self, name: str, module: nn.Module, inputs: Any, states: Tensor) -> None:
        """Record a projection's output. DeBERTa calls the same projection for its positions, with another shape, which
        is not recorded. ALBERT's layers are one module: the last call counts.
        """
        if name not in self.latest or states.shape == self.latest[name].shape:
            self.latest[name] = states

    def take(self) -> list[Tensor]:
        """Those of the latest forward pass. They are no longer kept."""
        found = [self.latest[name] for name in self.names]
        self.latest.clear()
        return found if len(found) > 1 else list(found[0].chunk(3, dim=-1))


def feed_forward(block: nn.Module, family: str) -> tuple[nn.Linear, nn.Linear]:
    """The two projections of a layer's feed-forward part: weights (F, D) up to the F neurons, and (D, F) down. If the
    neurons have gates (ModernBERT), the first is (2 F, D): the neurons, then their gates.
    """
    found: Any = tuple(block.get_submodule(name) for name in FAMILIES[family].feed_forward_projections)
    return found


def word_logits(model: PreTrainedModel, inputs: dict[str, Tensor], positions: Tensor) -> Tensor:
    """A masked language model's logits (M, V) at the M positions where the mask ``positions`` (B, S) is true.

    They are in order of row and position. After the last layer's attention, only these positions are computed, if the
    family has a module there.
    """
    family = FAMILIES[model.config.model_type]
    if not family.attention_end:
        return family.head(model, model.base_model(**inputs).last_hidden_state[positions])
    attention_end = layers(model.base_model)[-1].get_submodule(family.attention_end)
    hook = attention_end.register_forward_hook(lambda module, inputs, states: states[positions])
    try:
        return family.head(model, model.base_model(**inputs).last_hidden_state)
    finally:
        hook.remove()
