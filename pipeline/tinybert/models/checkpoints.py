"""Checkpoints on disk: loading without a network, saving, checking that two models fit together."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log_count
from pipeline.tinybert.models.families import FAMILIES, check_family

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import Shape


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


def log_truncated(encoded, longest: int) -> None:
    """Of texts that a tokenizer has cut at ``longest`` word-pieces."""
    found = encoded.encodings or []
    cut = sum(bool(text.overflowing) for text in found)
    log_count(cut, len(found), f"texts are longer than {longest} word-pieces (max_length) and are cut")


def set_dropout(model: nn.Module, dropout: float | None) -> None:
    """Let ``model`` train with this dropout everywhere; None leaves its own. Its configuration stays as it was."""
    if dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout


def shape_of(config) -> Shape:
    from pipeline.tinybert.core.settings import Shape

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
