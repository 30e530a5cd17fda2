"""Checkpoints on disk: loading without a network, saving, checking that two models fit together."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn

from pipeline.tinybert.stage import UserError, say_how_many

if TYPE_CHECKING:
    from pipeline.tinybert.settings import LayerMap, Shape


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
FILES = {"pytorch": "model.safetensors", "onnx": "model.onnx", "int8": "model_int8.onnx"}  # of what is shipped
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def load(loader: Callable, folder: str | Path, key: str = "", seed: int = 0, **options):
    """``loader.from_pretrained`` on a local folder, in float32. Pickled weights go through torch's weights-only reader.

    Weights that the folder lacks (a pooler, a head) are drawn by ``seed``.
    Raises UserError where the folder cannot be loaded; ``key`` is the setting that names it.
    """
    return _from_pretrained(loader, folder, key, seed, dtype=torch.float32, **options)


def _from_pretrained(loader: Callable, folder: str | Path, key: str, seed: int = 0, **options):
    start = f"{key}: " if key else ""
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{start}{folder} cannot be loaded: {reason}") from error


def check_family(config, key: str) -> None:
    family = config.model_type
    if family not in FAMILIES:
        raise UserError(f"{key}: a model of the family '{family}': expected one of {', '.join(FAMILIES)}")


def save(folder: Path, model: nn.Module, tokenizer=None, **options) -> None:
    model.save_pretrained(folder, **options)
    if tokenizer is not None:
        # Which would be as the last call left them.
        tokenizer.backend_tokenizer.no_truncation(), tokenizer.backend_tokenizer.no_padding()
        tokenizer.save_pretrained(folder)


def tokenizer(folder: str | Path, key: str = ""):
    """The tokenizer of a folder, which cuts at the positions of the folder's model (TinyBERT's files do not say)."""
    config = _from_pretrained(transformers.AutoConfig, folder, key)
    check_family(config, key or str(folder))
    # Words of a byte-level vocabulary begin with a space, the first of a text too: so it can take words one by one.
    options = {"add_prefix_space": True} if config.model_type == "roberta" else {}
    loaded = _from_pretrained(transformers.AutoTokenizer, folder, key, **options)
    positions = config.max_position_embeddings - FAMILIES[config.model_type].reserved_positions
    loaded.model_max_length = min(loaded.model_max_length, positions)
    if getattr(config, "type_vocab_size", 0) < 2:  # the model has no use for them, or no place
        loaded.model_input_names = [name for name in loaded.model_input_names if name != "token_type_ids"]
    return loaded


def say_how_many_are_cut(encoded, longest: int) -> None:
    """Of texts that a tokenizer has cut at ``longest`` word-pieces."""
    found = encoded.encodings or []
    cut = sum(bool(text.overflowing) for text in found)
    say_how_many(cut, len(found), f"texts are longer than {longest} word-pieces (max_length) and are cut")


def set_dropout(model: nn.Module, dropout: float | None) -> None:
    """Let ``model`` train with this dropout everywhere; None leaves its own. Its configuration stays as it was."""
    if dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout


def shape_of(config) -> Shape:
    from pipeline.tinybert.settings import Shape

    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        feed_forward=getattr(config, FAMILIES[config.model_type].feed_forward),
    )


def set_shape(config, shape: Shape) -> None:
    """Give a configuration another shape; the rest stays the family's."""
    config.num_hidden_layers, config.hidden_size = shape.layers, shape.hidden
    config.num_attention_heads = shape.heads
    setattr(config, FAMILIES[config.model_type].feed_forward, shape.feed_forward)


def check_vocabulary(student, teacher, key: str) -> None:
    """Teacher and student must read the same word-pieces: they get the same ids."""
    if student.get_vocab() != teacher.get_vocab():
        raise UserError(
            f"{key}: the student's vocabulary ({len(student)} word-pieces) is not the teacher's ({len(teacher)}):"
            " choose a student and an encoder with the same tokenizer"
        )


def map_layers(layer_map: LayerMap, student: int, teacher: int, key: str) -> list[int]:
    """Teacher layer of each of the student's layers 1..M (of N), counting from 1.

    uniform: m·N/M, where that is whole; first: m; last: m + N − M; or a list.
    """
    if isinstance(layer_map, list):
        if len(layer_map) != student or not all(1 <= layer <= teacher for layer in layer_map):
            raise UserError(
                f"{key}: {layer_map}: expected {student} numbers from 1 to {teacher}, one for each layer of the student"
            )
        return layer_map
    if student > teacher:
        raise UserError(f"{key}: {layer_map}: the student has {student} layers, the teacher only {teacher}")
    if layer_map == "uniform":
        if teacher % student:
            raise UserError(
                f"{key}: uniform: {teacher} teacher layers do not divide by {student} student layers: choose first,"
                " last or a list, or another number of layers"
            )
        return [layer * teacher // student for layer in range(1, student + 1)]
    shift = teacher - student if layer_map == "last" else 0
    return [layer + shift for layer in range(1, student + 1)]


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


def of_words(model: nn.Module, words: list[int]) -> nn.Module:
    """A copy of a masked language model, whose logits are over these of its word-pieces alone, in this order."""
    model = copy.deepcopy(model)
    whole = model.get_output_embeddings()
    part = nn.Linear(whole.in_features, len(words), device="meta")
    part.weight, part.bias = (nn.Parameter(values.detach()[words]) for values in (whole.weight, whole.bias))
    model.set_output_embeddings(part)
    return model
