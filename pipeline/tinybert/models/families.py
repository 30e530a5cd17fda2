"""Families of encoders: what differs between them, and the parts of a model that are found through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.tinybert.core.errors import UserError


@dataclass(frozen=True)
class Family:
    """What differs between families of encoders: where the layers are; in a layer the attention, its projections to
    queries, keys and values and, where it has one, to what it gives, and the module that ends it; the feed-forward
    width's name and its two projections in a layer; positions that text cannot take; the part of the masked language
    model that turns hidden states into words.
    """

    layers: str
    head: Callable[[nn.Module, Tensor], Tensor]
    attention: str = "attention.self"
    queries_keys_values: tuple[str, str, str] = ("query", "key", "value")
    output_projection: str | None = None
    attended: str = "attention.output"
    feed_forward: str = "intermediate_size"
    projections: tuple[str, str] = ("intermediate.dense", "output.dense")
    reserved_positions: int = 0


FAMILIES = {
    "bert": Family("encoder.layer", lambda model, hidden: model.cls(hidden)),
    "roberta": Family("encoder.layer", lambda model, hidden: model.lm_head(hidden), reserved_positions=2),
    "electra": Family(
        "encoder.layer", lambda model, hidden: model.generator_lm_head(model.generator_predictions(hidden))
    ),
    "distilbert": Family(
        "transformer.layer",
        lambda model, hidden: model.vocab_projector(
            model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
        ),
        attention="attention",
        queries_keys_values=("q_lin", "k_lin", "v_lin"),
        output_projection="out_lin",
        attended="sa_layer_norm",
        feed_forward="hidden_dim",
        projections=("ffn.lin1", "ffn.lin2"),
    ),
}


def check_family(config, key: str) -> None:
    family = config.model_type
    if family not in FAMILIES:
        raise UserError(f"{key}: a model of the family '{family}': expected one of {', '.join(FAMILIES)}")


def layers(encoder: nn.Module) -> nn.ModuleList:
    return encoder.get_submodule(FAMILIES[encoder.config.model_type].layers)


def feed_forward(block: nn.Module, family: str) -> tuple[nn.Linear, nn.Linear]:
    """The two projections of a layer's feed-forward part, to its neurons (F, D) and back (D, F)."""
    to, back = FAMILIES[family].projections
    return block.get_submodule(to), block.get_submodule(back)


def word_logits(model: nn.Module, inputs: dict[str, Tensor], positions: Tensor) -> Tensor:
    """A masked language model's logits over its words at the positions that the mask (B, S) marks: (marked, V), in row
    order. From the last layer's attention on, nothing is computed anywhere else.
    """
    family = FAMILIES[model.config.model_type]
    attended = layers(model.base_model)[-1].get_submodule(family.attended)
    hook = attended.register_forward_hook(lambda module, inputs, states: states[positions])
    try:
        return family.head(model, model.base_model(**inputs).last_hidden_state)
    finally:
        hook.remove()
