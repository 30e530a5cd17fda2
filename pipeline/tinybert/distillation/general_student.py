"""The general TinyBERT, where task distillation starts: a checkpoint, layers of the encoder, or a distilled student."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import torch
from accelerate.utils import set_seed
from transformers import AutoConfig, AutoModel, PreTrainedModel

from pipeline.tinybert.core import resume
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.settings import GeneralDistillation, GeneralStudent, Numerics, Shape
from pipeline.tinybert.data import locations, rows, sources
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.distillation import narrowing
from pipeline.tinybert.distillation.intermediate import learn_intermediate
from pipeline.tinybert.distillation.layer_map import map_layers
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.encoded_rows import Columns, load_or_write
from pipeline.tinybert.models.families import FAMILIES, layers
from pipeline.tinybert.tasks import Task
from pipeline.tinybert.training.plan import Result

KEY = "general_student"
ENCODER = Path("models/pretrained/encoder")
TEXTS_PER_BLOCK = 1000  # encoded together


def from_checkpoint(wanted: GeneralStudent) -> PreTrainedModel:
    """A ready-made general TinyBERT. Raises UserError unless it has the set shape and the encoder's vocabulary."""
    key = f"{KEY}.checkpoint"
    folder = locations.checkpoint_folder(wanted.checkpoint, key)
    tokenizer = checkpoints.encoder_tokenizer(folder, key)
    student = checkpoints.load(AutoModel, folder, key)
    encoder = AutoConfig.from_pretrained(ENCODER, local_files_only=True)
    if student.config.model_type != encoder.model_type:
        raise UserError(
            f"{key}: the model's family is '{student.config.model_type}', the encoder's is '{encoder.model_type}':"
            " choose two models of the same family"
        )
    _check_shape(checkpoints.shape_of(student.config), wanted, f"the checkpoint {wanted.checkpoint}")
    checkpoints.check_vocabulary(tokenizer, checkpoints.tokenizer(ENCODER), key)
    return student


def from_layers(wanted: GeneralStudent, task: Task, sample: Iterable[Row]) -> PreTrainedModel:
    """The encoder's embeddings, and the layers that ``layers`` names (counting from 1), in that order.

    If the shape's feed-forward part is narrower than the encoder's, each layer keeps the neurons that are strongest on
    ``sample``, rows of the task.
    """
    encoder = checkpoints.load(AutoModel, ENCODER)
    blocks = layers(encoder)
    chosen = wanted.layers
    if not isinstance(chosen, list):
        chosen = map_layers("auto", wanted.shape.layers, len(blocks), f"{KEY}.layers")
    if not all(1 <= layer <= len(blocks) for layer in chosen):
        raise UserError(f"{KEY}.layers: {chosen}: expected numbers from 1 to {len(blocks)}, the encoder's layers")
    if len(chosen) != wanted.shape.layers:
        raise UserError(
            f"{KEY}.layers: {chosen}: {len(chosen)} layers, but {KEY}.shape.layers is {wanted.shape.layers}: make them"
            " agree"
        )
    own = checkpoints.shape_of(encoder.config)
    narrower = min(wanted.shape.feed_forward, own.feed_forward)
    _check_shape(
        own.model_copy(update={"layers": len(chosen), "feed_forward": narrower}),
        wanted,
        "start: layers (where only feed_forward may be smaller than the encoder's)",
    )
    if narrower < own.feed_forward:
        tokenizer = checkpoints.tokenizer(ENCODER)
        narrowing.narrow(encoder, narrower, narrowing.encoded(task, list(sample), tokenizer), tokenizer)
    config = encoder.config
    checkpoints.set_shape(config, wanted.shape, chosen)
    student = AutoModel.from_config(config, dtype=torch.float32)
    copied, place = encoder.state_dict(), FAMILIES[config.model_type].layers
    others = {name: weights for name, weights in copied.items() if not name.startswith(f"{place}.")}
    student.load_state_dict(others, strict=False)
    for block, layer in zip(layers(student), chosen, strict=True):
        weights = blocks[layer - 1].state_dict()
        if weights.keys() != block.state_dict().keys():
            raise UserError(
                f"{KEY}.layers: {chosen}: the first layer of a {config.model_type} has other weights than the rest:"
                " expected 1 in the first place and nowhere else, for a single layer [1]"
            )
        block.load_state_dict(weights)
    return student


def from_distillation(wanted: GeneralStudent, numerics: Numerics) -> tuple[PreTrainedModel, Result]:
    """A randomly initialised student of the set shape, distilled from the encoder on unlabelled text.

    General distillation (Jiao et al. 2020, section 3.2): embeddings, hidden states and attention scores.
    """
    recipe, shape = wanted.distillation, wanted.shape
    tokenizer = checkpoints.tokenizer(ENCODER)
    config = AutoConfig.from_pretrained(ENCODER, local_files_only=True)
    if shape.hidden % shape.heads:
        raise UserError(f"{KEY}.shape.hidden: {shape.hidden} is not a multiple of {KEY}.shape.heads, {shape.heads}")
    if recipe.losses.attention and shape.heads != config.num_attention_heads:
        raise UserError(
            f"{KEY}.distillation.losses.attention: the student has {shape.heads} heads, the teacher"
            f" {config.num_attention_heads}: the attention loss compares head with head; set {KEY}.shape.heads to the"
            " teacher's, or this weight to 0"
        )
    checkpoints.set_shape(config, shape)
    if recipe.max_length > tokenizer.model_max_length:
        raise UserError(
            f"{KEY}.distillation.max_length: {recipe.max_length}: the encoder takes at most"
            f" {tokenizer.model_max_length} word pieces: set it to that or less"
        )
    set_seed(numerics.seed)
    student = AutoModel.from_config(config, dtype=torch.float32)
    encoder = checkpoints.load(AutoModel, ENCODER)
    encoded = _encoded(recipe, numerics.seed, tokenizer)
    with resume.folder("texts") as folder, closing(load_or_write(folder, encoded)) as data:
        log(f"general distillation from {len(data)} texts")
        result = learn_intermediate(student, encoder, data, tokenizer, recipe, numerics, f"{KEY}.distillation")
    return student, result


def _encoded(recipe: GeneralDistillation, seed: int, tokenizer) -> Iterator[Columns]:
    """Yield the encoded texts block by block: there may be millions."""
    for block in rows.blocks(sources.each_text(recipe.text, seed, f"{KEY}.distillation.text"), TEXTS_PER_BLOCK):
        encoded = tokenizer(block, truncation=True, max_length=recipe.max_length)
        checkpoints.log_truncated(encoded, recipe.max_length)
        yield encoded


def _check_shape(found: Shape, wanted: GeneralStudent, which: str) -> None:
    for name, value in found.model_dump().items():
        if value != getattr(wanted.shape, name):
            raise UserError(
                f"{KEY}.shape.{name}: {getattr(wanted.shape, name)}, but {which} gives {value}: set it to {value}, or"
                f" choose another {KEY}.start"
            )
