"""The general TinyBERT, where task distillation starts: a checkpoint, layers of the encoder, or a distilled student."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from pipeline.tinybert.core import resume
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.settings import GeneralDistillation, GeneralStudent, Numerics, Shape
from pipeline.tinybert.data import locations, rows, sources
from pipeline.tinybert.distillation.intermediate import learn_intermediate
from pipeline.tinybert.distillation.layer_map import map_layers
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.encoded_rows import Columns, load_or_write
from pipeline.tinybert.models.families import FAMILIES, feed_forward, layers
from pipeline.tinybert.models.inference import BATCH
from pipeline.tinybert.training.plan import Result

KEY = "general_student"
ENCODER = Path("models/pretrained/encoder")
TEXTS_TO_NARROW = 512
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


def from_layers(wanted: GeneralStudent, seed: int) -> PreTrainedModel:
    """The encoder's embeddings, and the layers that ``layers`` names (counting from 1), in that order.

    If the shape's feed-forward part is narrower than the encoder's, each layer keeps its strongest neurons.
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
        narrow(encoder, narrower, wanted, seed)
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


def narrow(encoder: PreTrainedModel, width: int, wanted: GeneralStudent, seed: int) -> None:
    """Keep the ``width`` strongest neurons of each feed-forward part. Strength: standard deviation of the activation on
    unlabelled text times the norm of the outgoing weights. The mean output of the dropped neurons goes into the bias,
    if there is one.
    """
    recipe = wanted.distillation
    text = recipe.text.model_copy(update={"limit": min(TEXTS_TO_NARROW, recipe.text.limit)})
    texts = sources.texts(text, seed, f"{KEY}.distillation.text")
    log(f"keeping the {width} strongest neurons of each feed-forward part, as measured on {len(texts)} texts")
    parts = [feed_forward(block, encoder.config.model_type) for block in layers(encoder)]
    for (up, down), (mean, deviation) in zip(
        parts, _activations(encoder, parts, texts, recipe.max_length), strict=True
    ):
        strength = deviation * down.weight.norm(dim=0)
        kept, dropped = strength.argsort(descending=True, stable=True).tensor_split([width])
        kept = kept.sort().values
        rows = torch.cat([kept + first for first in range(0, up.out_features, down.in_features)])  # also of the gates
        up.weight.data = up.weight[rows]
        if up.bias is not None:
            up.bias.data = up.bias[rows]
        if down.bias is not None:
            down.bias.data += down.weight[:, dropped] @ mean[dropped]
        down.weight.data = down.weight[:, kept]


@torch.no_grad()
def _activations(encoder: PreTrainedModel, parts: list, texts: list[str], longest: int) -> list[tuple[Tensor, Tensor]]:
    """For each feed-forward part: mean and standard deviation of its neurons' activations, (F,) each."""
    tokenizer = checkpoints.tokenizer(ENCODER)
    longest = min(longest, tokenizer.model_max_length)
    inputs: dict[nn.Module, Tensor] = {}
    hooks = [down.register_forward_pre_hook(lambda part, given: inputs.update({part: given[0]})) for _, down in parts]
    sums: list[Any] = [0.0] * len(parts)
    squares: list[Any] = [0.0] * len(parts)
    positions = 0
    encoder.eval()
    for start in range(0, len(texts), BATCH):
        some = texts[start : start + BATCH]
        batch = tokenizer(some, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        encoder(**batch)
        mask = batch["attention_mask"].bool()
        positions += int(mask.sum())
        for number, (_, down) in enumerate(parts):
            activations = inputs[down][mask].double()
            sums[number] = sums[number] + activations.sum(0)
            squares[number] = squares[number] + activations.square().sum(0)
    for hook in hooks:
        hook.remove()
    means = [total / positions for total in sums]
    variances = [total / positions - mean.square() for total, mean in zip(squares, means, strict=True)]
    return [
        (mean.float(), variance.clamp(min=0).sqrt().float()) for mean, variance in zip(means, variances, strict=True)
    ]


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
