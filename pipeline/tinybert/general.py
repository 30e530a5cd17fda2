"""The general TinyBERT, where task distillation starts: a checkpoint, layers of the encoder, or distilled from it."""

from pathlib import Path

import datasets
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, set_seed

from pipeline.tinybert import models, sources
from pipeline.tinybert.distillation import imitate
from pipeline.tinybert.settings import GeneralStudent, Numerics
from pipeline.tinybert.stage import UserError, say
from pipeline.tinybert.training import Result

KEY = "general_student"
ENCODER = Path("models/pretrained/encoder")


def from_checkpoint(wanted: GeneralStudent) -> nn.Module:
    """A general TinyBERT that someone made: of the set shape, and with the encoder's vocabulary."""
    key = f"{KEY}.checkpoint"
    folder = sources.checkpoint_folder(wanted.checkpoint, key)
    student = models.load(AutoModel, folder, key)
    models.check_family(student.config, key)
    encoder = AutoConfig.from_pretrained(ENCODER, local_files_only=True)
    if student.config.model_type != encoder.model_type:
        raise UserError(
            f"{key}: a model of the family '{student.config.model_type}', but the encoder's is '{encoder.model_type}':"
            " a student is of its teacher's family"
        )
    _check_shape(student, wanted, f"the checkpoint {wanted.checkpoint}")
    models.check_vocabulary(models.tokenizer(folder, key), models.tokenizer(ENCODER), key)
    return student


def from_layers(wanted: GeneralStudent) -> nn.Module:
    """The encoder's embeddings and those of its layers (counting from 1) that ``layers`` names, in that order."""
    encoder = models.load(AutoModel, ENCODER)
    blocks = models.layers(encoder)
    if not all(1 <= layer <= len(blocks) for layer in wanted.layers):
        raise UserError(
            f"{KEY}.layers: {wanted.layers}: expected numbers from 1 to {len(blocks)}, the encoder's layers"
        )
    if len(wanted.layers) != wanted.shape.layers:
        raise UserError(
            f"{KEY}.layers: {wanted.layers} are {len(wanted.layers)}, {KEY}.shape.layers is {wanted.shape.layers}:"
            " make them agree"
        )
    config = encoder.config
    config.num_hidden_layers = len(wanted.layers)
    student = AutoModel.from_config(config, dtype=torch.float32)
    _check_shape(student, wanted, "start: layers, which keeps the encoder's widths,")
    copied, place = encoder.state_dict(), models.FAMILIES[config.model_type].layers
    own = {name: weights for name, weights in copied.items() if not name.startswith(f"{place}.")}
    student.load_state_dict(own, strict=False)
    for block, layer in zip(models.layers(student), wanted.layers, strict=True):
        block.load_state_dict(blocks[layer - 1].state_dict())
    return student


def from_distillation(wanted: GeneralStudent, numerics: Numerics) -> tuple[nn.Module, Result]:
    """An untrained student of the set shape, taught by the encoder on unlabelled text: no labels, no logits.

    General distillation (Jiao et al. 2020, section 3.2): embeddings, hidden states and attention scores.
    """
    recipe, shape = wanted.distillation, wanted.shape
    texts = sources.texts(recipe.text, numerics.seed, f"{KEY}.distillation.text")
    tokenizer = models.tokenizer(ENCODER)
    config = AutoConfig.from_pretrained(ENCODER, local_files_only=True)
    if shape.hidden % shape.heads:
        raise UserError(f"{KEY}.shape.hidden: {shape.hidden} is not a multiple of {KEY}.shape.heads, {shape.heads}")
    models.set_shape(config, shape)
    if recipe.max_length > tokenizer.model_max_length:
        raise UserError(
            f"{KEY}.distillation.max_length: {recipe.max_length}: the encoder takes {tokenizer.model_max_length}"
            " word-pieces at most"
        )
    set_seed(numerics.seed)
    student = AutoModel.from_config(config, dtype=torch.float32)
    encoded = tokenizer(texts, truncation=True, max_length=recipe.max_length)
    models.say_how_many_are_cut(encoded, recipe.max_length)
    data = datasets.Dataset.from_dict({**encoded, "length": [len(ids) for ids in encoded["input_ids"]]})
    say(f"general distillation from {len(texts)} texts")
    encoder = models.load(AutoModel, ENCODER)
    result = imitate(student, encoder, data, tokenizer, recipe, numerics, f"{KEY}.distillation")
    return student, result


def _check_shape(student: nn.Module, wanted: GeneralStudent, which: str) -> None:
    found = models.shape_of(student.config)
    for name, value in found.model_dump().items():
        if value != getattr(wanted.shape, name):
            raise UserError(
                f"{KEY}.shape.{name}: {getattr(wanted.shape, name)}, but {which} gives {value}: set it to {value}, or"
                f" choose another {KEY}.start"
            )
