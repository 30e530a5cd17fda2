"""Whether a checkpoint's weights fit its configuration. If not, the library would leave weights of the body random."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_utils import load_state_dict

from pipeline.tinybert.models.families import family_of

FILES = ("model.safetensors", "pytorch_model.bin")  # in the order in which the library looks for them
WORD_EMBEDDINGS = re.compile(r"embeddings\.(word|tok)_embeddings\.weight$")
# Prefixes of the weights' names if the model was part of another module: DistributedDataParallel, torch.compile, a
# LightningModule, a SentenceTransformer, a class of the user's.
WRAPPERS = r"module|_orig_mod|model|base_model|auto_model|encoder|backbone|net|network|\d+"
HEADS = (  # of language models
    *("cls", "lm_head", "generator_", "discriminator_predictions", "vocab_"),
    *("predictions.", "sop_classifier.", "lm_predictions.", "mask_predictions.", "decoder."),
)
SHOWN = 3


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of each weight in a checkpoint's files, without reading the weights. Empty if there are no files.

    Raises ValueError if a file holds anything but weights by name.
    """
    found: dict[str, tuple[int, ...]] = {}
    for file in _files(folder):
        held: Any = load_state_dict(file, map_location="meta")
        if not (isinstance(held, dict) and held and all(isinstance(weight, Tensor) for weight in held.values())):
            raise ValueError(f"{file.name} holds something other than weights by name: save only the state_dict()")
        found |= {name: tuple(weight.shape) for name, weight in held.items()}
    return found


def _files(folder: Path) -> list[Path]:
    for name in FILES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"  # of a checkpoint in several files
        if index.is_file():
            parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return [folder / part for part in sorted(set(parts))]
    return []


def check_sizes(config: Any, held: dict[str, tuple[int, ...]]) -> None:
    """Raise ValueError if the configuration states a size that no weight has, or more layers than there are weights.

    This bounds the time and the memory that building the model takes.
    """
    sizes = {size for shape in held.values() for size in shape}
    family, names = family_of(config), ["vocab_size", "hidden_size", "embedding_size", "type_vocab_size"]
    for name in (*names, *["max_position_embeddings"] * family.has_positions, family.feed_forward):
        size = getattr(config, name, 0)
        if held and size and size not in sizes:
            raise ValueError(f"{name} is {size} in config.json, but no weight has this size")
    if held and config.num_hidden_layers > len(held):
        raise ValueError(f"config.json states {config.num_hidden_layers} layers, but there are {len(held)} weights")


def wrapper(names: Collection[str], config: Any) -> str:
    """The prefix that a wrapper added to the names of all weights ("module.model."); "" if there is none."""
    family = family_of(config).prefix or config.model_type
    before = {name[: place.start()] for name in names if (place := WORD_EMBEDDINGS.search(name))}
    found = {re.sub(rf"(^|\.){family}\.$", r"\1", prefix) for prefix in before}
    known = re.compile(rf"(?:(?:{WRAPPERS}|{family})\.)+")
    return found.pop() if len(found) == 1 and all(map(known.fullmatch, found)) else ""


def check_body(model: PreTrainedModel, report: dict[str, Any]) -> None:
    """Raise ValueError if a weight of the body (except the pooler) is missing, unexpected or of another shape.

    report: the library's loading report.
    """
    parts = {name for name, _ in model.base_model.named_children()} - {"pooler"}

    def of_body(names: Collection[str]) -> list[str]:
        return [name for name in names if _without_base(model, name).partition(".")[0] in parts]

    missing = of_body(report["missing_keys"])
    unexpected = report["unexpected_keys"] if missing else of_body(report["unexpected_keys"])
    misshaped = [f"{name} {tuple(found)} for {tuple(expected)}" for name, found, expected in report["mismatched_keys"]]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    if any(found.values()):
        counts = [f"{len(names)} {what} ({first_few(names)})" for what, names in found.items() if names]
        raise ValueError(
            f"its weights are not those of the {type(model).__name__} in its config.json: {'; '.join(counts)}: name and"
            " save them as save_pretrained does, with the config.json of this model"
        )


def check_finite(model: PreTrainedModel) -> None:
    """Raise ValueError if a weight is not a finite number: a model that has diverged was saved."""
    names = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if names:
        raise ValueError(f"{len(names)} of its weights are not finite ({first_few(names)}): its training diverged")


def of_no_known_part(model: PreTrainedModel, names: Collection[str]) -> list[str]:
    """The ``names`` of unexpected weights that belong neither to a pooler nor to the head of a language model."""
    return [name for name in names if not _without_base(model, name).startswith(("pooler.", *HEADS))]


def first_few(names: Collection[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more


def _without_base(model: PreTrainedModel, name: str) -> str:
    return name.removeprefix(f"{model.base_model_prefix}.")
