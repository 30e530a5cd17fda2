"""Checkpoints on disk: load without a network, save, and compare the shapes and vocabularies of models."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log, log_count
from pipeline.tinybert.models import tokenizers, weights
from pipeline.tinybert.models.families import check_family, family_of

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import Shape

# The code reads a model's outputs by name, and asks for hidden states where it needs them.
OUTPUTS = {"return_dict": True, "output_attentions": False, "output_hidden_states": False}
# What the library writes into tokenizer_config.json about how a tokenizer was loaded and last called.
CALL_STATE = ("is_local", "local_files_only", "max_length", "pad_to_multiple_of", "stride", "truncation_strategy")
# The library spells out a name for each label and, in some families, an entry for each layer.
MOST = {"num_labels": 100_000, "num_hidden_layers": 10_000}

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def load(loader: Any, folder: str | Path, key: str = "", seed: int = 0, **options):
    """Load a model from a local folder by ``loader.from_pretrained``, in float32. Never executes code from the folder.

    seed: initializes weights that the folder lacks: only a pooler or a head may be missing.
    key: the setting that names the folder; the error message begins with it.
    options: values that replace those of the model's configuration.
    Raises UserError if the folder cannot be loaded, or if a weight of the body is missing, unexpected or misshapen.
    """
    return load_and_report(loader, folder, key, seed, **options)[0]


def load_and_report(loader: Any, folder: str | Path, key: str = "", seed: int = 0, **options):
    """As ``load``; returns the model and the library's report: ``missing_keys`` and ``unexpected_keys`` of the file."""
    config = _configuration(folder, key)
    with _loading(folder, key), torch.random.fork_rng():
        held = weights.shapes(Path(folder))
        weights.check_sizes(config, held)
        wrapper = weights.wrapper(held, config)
        torch.manual_seed(seed)
        model, report = loader.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report
            key_mapping={f"^{re.escape(wrapper)}": ""} if wrapper else None,
            **OUTPUTS,
            **options,
        )
        weights.check_body(model, report)
        if key:  # a user's file
            weights.check_finite(model)
        return model, report


def _configuration(folder: str | Path, key: str) -> Any:
    """The configuration of a checkpoint of a supported family."""
    with _loading(folder, key):
        stated, _ = transformers.PreTrainedConfig.get_config_dict(folder, local_files_only=True)
        if Path(folder, "adapter_config.json").exists():
            raise ValueError("it has an adapter (adapter_config.json): save the merged model (merge_and_unload)")
        for name, most in MOST.items():
            if (stated.get(name) or 0) > most:
                raise ValueError(f"{name} is {stated[name]} in config.json: expected at most {most}")
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # Without a key it is a model of this project's, perhaps a teacher.
    check_family(config, key or str(folder), is_teacher=not key or key.startswith("finetune_teacher."))
    return config


def problem_type(folder: str | Path) -> str | None:
    """What the model of this checkpoint was trained to predict, in the library's terms; None if its configuration does
    not say so, as that of a pre-trained encoder.
    """
    return transformers.PreTrainedConfig.get_config_dict(folder, local_files_only=True)[0].get("problem_type")


@contextlib.contextmanager
def _loading(folder: str | Path, key: str) -> Iterator[None]:
    """Turn any error of the block (a user's files can cause all) into a UserError with the setting and the folder."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        reason = " ".join(" ".join(lines[: 2 if lines[0].endswith(":") else 1]).split())
        if isinstance(error, KeyError) or not reason:
            reason = f"{type(error).__name__} {reason}".strip()
        raise UserError(f"{f'{key}: ' if key else ''}{folder} cannot be loaded: {reason}") from error


def save(folder: Path, model: PreTrainedModel, tokenizer=None) -> None:
    """Save a model and its tokenizer in the library's format."""
    # The library's names, without the prefix of a wrapper that the loaded file may have had.
    model.save_pretrained(folder, save_original_format=False)
    if tokenizer is not None:
        # Reset what the last call of the tokenizer set; otherwise it would be saved.
        tokenizer.backend_tokenizer.no_truncation(), tokenizer.backend_tokenizer.no_padding()
        for name in CALL_STATE:
            tokenizer.init_kwargs.pop(name, None)
        tokenizer.save_pretrained(folder)


def tokenizer(folder: str | Path, key: str = ""):
    """Load the tokenizer of a checkpoint.

    Its maximum length is at most the model's number of positions, because some checkpoints (the released TinyBERT, for
    example) state none. ``key``: the setting that names the folder. Raises UserError if the folder cannot be loaded, or
    if the tokenizer does not fit its model.
    """
    config = _configuration(folder, key)
    # In a byte-level vocabulary a word begins with a space. This adds one before the first word of a text too, which
    # the tokenizer requires before it accepts text that is already split into words.
    options = {"add_prefix_space": True} if config.model_type == "roberta" else {}
    with _loading(folder, key):
        tokenizers.check_files(Path(folder))
        loaded = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )
        tokenizers.check(loaded, config)
    positions = config.max_position_embeddings - family_of(config).reserved_positions
    loaded.model_max_length = min(loaded.model_max_length, positions)
    loaded.padding_side = "right"  # positions are counted from the left
    if getattr(config, "type_vocab_size", 0) < 2:  # the model has one token type, or none
        loaded.model_input_names = [name for name in loaded.model_input_names if name != "token_type_ids"]
    return loaded


def user_tokenizer(folder: Path, key: str):
    """`tokenizer` of a checkpoint that the setting ``key`` names. Logs what is usable but unusual in the checkpoint."""
    loaded = tokenizer(folder, key)
    with _loading(folder, key):
        names = weights.shapes(folder)
    if wrapper := weights.wrapper(names, _configuration(folder, key)):
        log(f"{key}: the names of the weights begin with '{wrapper}', which is left out")
    if found := tokenizers.difference_to_file(loaded, folder):
        text, ours, theirs = found
        log(
            f"{key}: DOUBTFUL: '{text}' is read as {ours}, but tokenizer.json says {theirs}: make tokenizer_config.json"
            " agree with it (do_lower_case, strip_accents, tokenizer_class: PreTrainedTokenizerFast)"
        )
    elif word := tokenizers.lost_capitals(loaded):
        log(
            f"{key}: DOUBTFUL: the vocabulary has words with capitals, but the tokenizer reads '{word}' as"
            f" '{' '.join(loaded.tokenize(word))}': if the model knows capitals, set do_lower_case to false in"
            " tokenizer_config.json (and lowercase in tokenizer.json)"
        )
    return loaded


def encoder_tokenizer(folder: Path, key: str):
    """`user_tokenizer` of a model that this project trains: words that are given one by one are read as in a text."""
    loaded = user_tokenizer(folder, key)
    tokenizers.begin_words_with_a_space(loaded)
    return loaded


def log_truncated(encoded, longest: int) -> None:
    """Log how many of the encoded texts were truncated at ``longest`` word pieces."""
    encodings = encoded.encodings or []
    truncated = sum(bool(encoding.overflowing) for encoding in encodings)
    log_count(truncated, len(encodings), f"texts are longer than {longest} word pieces (max_length) and are cut")


def set_dropout(model: nn.Module, dropout: float | None) -> None:
    """Set the probability of every dropout layer, unless it is None. The model's configuration is not changed."""
    if dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
            if isinstance(getattr(module, "attention_dropout", None), float):  # ModernBERT
                setattr(module, "attention_dropout", dropout)  # noqa: B010


def shape_of(config) -> Shape:
    """Layers, hidden size, heads and feed-forward size of a model's configuration."""
    from pipeline.tinybert.core.settings import Shape

    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        feed_forward=getattr(config, family_of(config).feed_forward),
    )


def set_shape(config, shape: Shape, layers: Sequence[int] = ()) -> None:
    """Write a shape into a configuration, under the names of its model family.

    layers: those whose kind of attention (ModernBERT: local or global) the new ones get, counted from 1; by default the
    first ones.
    """
    if kinds := getattr(config, "layer_types", None):
        numbers = layers or range(1, shape.layers + 1)
        config.layer_types = [kinds[(number - 1) % len(kinds)] for number in numbers]
    config.num_hidden_layers, config.hidden_size = shape.layers, shape.hidden
    config.num_attention_heads = shape.heads
    setattr(config, family_of(config).feed_forward, shape.feed_forward)


def check_vocabulary(student, teacher, key: str) -> None:
    """Raise UserError unless both tokenizers have the same vocabulary and split text into the same word pieces. Teacher
    and student get the same input ids.
    """
    advice = "choose a student and an encoder with the same tokenizer"
    if student.get_vocab() != teacher.get_vocab():
        raise UserError(
            f"{key}: the student's vocabulary ({len(student)} word pieces) is not the teacher's ({len(teacher)}):"
            f" {advice}"
        )
    if found := tokenizers.difference(student, teacher):
        text, ours, theirs = found
        raise UserError(
            f"{key}: the student's tokenizer reads '{text}' as {ours}, the teacher's as {theirs}: {advice}, or make"
            " their tokenizer files (tokenizer.json, tokenizer_config.json) equal"
        )
