"""Checkpoints on disk: load without a network, save, and compare the shapes and vocabularies of models."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log_count
from pipeline.tinybert.models.families import FAMILIES, check_family

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import Shape

# Released formats of the student, and their files.
FILES = {"pytorch": "model.safetensors", "onnx": "model.onnx", "int8": "model_int8.onnx"}
LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def load(loader: Any, folder: str | Path, key: str = "", seed: int = 0, **options):
    """Load a model from a local folder by ``loader.from_pretrained``, in float32. Never executes code from the folder.

    seed: initializes weights that the folder lacks, such as a pooler or a head.
    key: the setting that names the folder; the error message begins with it.
    Raises UserError if the folder cannot be loaded.
    """
    return _from_pretrained(loader, folder, key, seed, dtype=torch.float32, **options)


def _from_pretrained(loader: Any, folder: str | Path, key: str, seed: int = 0, **options):
    prefix = f"{key}: " if key else ""
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except LOADING_ERRORS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{prefix}{folder} cannot be loaded: {reason}") from error


def save(folder: Path, model: PreTrainedModel, tokenizer=None, **options) -> None:
    """Save a model and its tokenizer in the library's format; ``options`` go to ``model.save_pretrained``."""
    model.save_pretrained(folder, **options)
    if tokenizer is not None:
        # The last call of the tokenizer set these; without a reset they would be saved.
        tokenizer.backend_tokenizer.no_truncation(), tokenizer.backend_tokenizer.no_padding()
        tokenizer.save_pretrained(folder)


def tokenizer(folder: str | Path, key: str = ""):
    """Load the tokenizer of a checkpoint.

    Its maximum length is at most the model's number of positions: some checkpoints, such as the released TinyBERT,
    state none. ``key``: the setting that names the folder. Raises UserError if the folder cannot be loaded.
    """
    config = _from_pretrained(transformers.AutoConfig, folder, key)
    check_family(config, key or str(folder))
    # In a byte-level vocabulary a word begins with a space. This adds one before the first word of a text too, which
    # the tokenizer requires before it accepts text that is already split into words.
    options = {"add_prefix_space": True} if config.model_type == "roberta" else {}
    loaded = _from_pretrained(transformers.AutoTokenizer, folder, key, **options)
    positions = config.max_position_embeddings - FAMILIES[config.model_type].reserved_positions
    loaded.model_max_length = min(loaded.model_max_length, positions)
    if getattr(config, "type_vocab_size", 0) < 2:  # the model has one token type, or none
        loaded.model_input_names = [name for name in loaded.model_input_names if name != "token_type_ids"]
    return loaded


def log_truncated(encoded, longest: int) -> None:
    """Log how many of the encoded texts were truncated at ``longest`` word-pieces."""
    encodings = encoded.encodings or []
    truncated = sum(bool(encoding.overflowing) for encoding in encodings)
    log_count(truncated, len(encodings), f"texts are longer than {longest} word-pieces (max_length) and are cut")


def set_dropout(model: nn.Module, dropout: float | None) -> None:
    """Set the probability of every dropout layer, unless it is None. The model's configuration is not changed."""
    if dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout


def shape_of(config) -> Shape:
    """Layers, hidden size, heads and feed-forward size of a model's configuration."""
    from pipeline.tinybert.core.settings import Shape

    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        feed_forward=getattr(config, FAMILIES[config.model_type].feed_forward),
    )


def set_shape(config, shape: Shape) -> None:
    """Write a shape into a configuration, under the names of its model family."""
    config.num_hidden_layers, config.hidden_size = shape.layers, shape.hidden
    config.num_attention_heads = shape.heads
    setattr(config, FAMILIES[config.model_type].feed_forward, shape.feed_forward)


def check_vocabulary(student, teacher, key: str) -> None:
    """Raise UserError unless both tokenizers have the same vocabulary: teacher and student get the same input ids."""
    if student.get_vocab() != teacher.get_vocab():
        raise UserError(
            f"{key}: the student's vocabulary ({len(student)} word-pieces) is not the teacher's ({len(teacher)}):"
            " choose a student and an encoder with the same tokenizer"
        )
