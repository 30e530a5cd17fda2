"""Trim the vocabulary of a finished model to the word pieces that a task needs.

Words outside the trimmed vocabulary are split into shorter word pieces.
"""

import copy
import json
import re
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel

from pipeline.tinybert.core.errors import UserError

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
SPECIAL = [f"{name}_token_id" for name in ("cls", "sep", "bos", "eos", "mask", "unk")]
MARKS = {"WordPiece": "##", "Unigram": "▁"}  # kind of vocabulary → the mark with which some pieces begin


def needed(tokenizer, sequences: Iterable[list[int]], words: Iterable[str], key: str) -> list[int]:
    """The ids to keep, sorted.

    These are the ids in the encoded ``sequences``, those of ``words``, special and added tokens, and all single
    characters, so that other words can be spelled. Raises UserError, which names the setting ``key``, if the vocabulary
    is of another kind: that of byte-level BPE has rules that join pieces.
    """
    described = _description(tokenizer)["model"]
    kind = described["type"]
    if kind not in MARKS:
        raise UserError(
            f"{key}: only a {' or '.join(MARKS)} vocabulary can be trimmed, not one of {kind}, as that of"
            f" {type(tokenizer).__name__}: leave it blank"
        )
    ids = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ids |= {number for piece, number in tokenizer.get_vocab().items() if len(piece.removeprefix(MARKS[kind])) <= 1}
    if described.get("byte_fallback"):  # characters without a piece are spelled in bytes
        ids |= {number for piece, number in tokenizer.get_vocab().items() if BYTE.fullmatch(piece)}
    ids.update(*sequences)
    if words := list(words):
        ids.update(*tokenizer(words, add_special_tokens=False)["input_ids"])
    return sorted(ids)


def trim(model: PreTrainedModel, tokenizer, kept: list[int]):
    """Reduce the embeddings of ``model`` in place to the ids ``kept``, in this order; return the trimmed tokenizer."""
    new_id = {number: index for index, number in enumerate(kept)}
    padding = new_id[tokenizer.pad_token_id]
    embeddings: Any = model.get_input_embeddings()
    weights = embeddings.weight.data[kept].clone()
    model.set_input_embeddings(nn.Embedding.from_pretrained(weights, freeze=False, padding_idx=padding))
    model.config.vocab_size, model.config.pad_token_id = len(kept), padding
    for name in SPECIAL:
        number = getattr(model.config, name, None)
        if isinstance(number, int) and number in new_id:  # a decoder's may be a list
            setattr(model.config, name, new_id[number])

    description = _description(tokenizer)
    _keep(description["model"], new_id)
    for token in description["added_tokens"]:
        token["id"] = new_id[token["id"]]
    _renumber(description["post_processor"], new_id)
    trimmed = copy.deepcopy(tokenizer)
    trimmed._tokenizer = Tokenizer.from_str(json.dumps(description))
    return trimmed


def check(tokenizer, before: list[list[int]], trimmed, after: list[list[int]], key: str) -> None:
    """Raise UserError unless both tokenizers split the same texts into the same word pieces.

    before, after: the ids of the texts by ``tokenizer`` and by ``trimmed``.
    """
    for old_ids, new_ids in zip(before, after, strict=True):
        if trimmed.convert_ids_to_tokens(new_ids) != tokenizer.convert_ids_to_tokens(old_ids):
            raise UserError(
                f"{key}: {type(tokenizer).__name__} cannot be trimmed: it would split texts of train into other"
                " word pieces: leave it blank"
            )


def _description(tokenizer) -> dict:
    """The content of tokenizer.json."""
    return json.loads(tokenizer.backend_tokenizer.to_str())


def _keep(model: dict, new_id: dict[int, int]) -> None:
    """Reduce the vocabulary of tokenizer.json's ``model`` to the pieces of ``new_id`` (old id → new id)."""
    pieces = model["vocab"]
    if model["type"] == "Unigram":  # a list of pieces, each with its log probability
        model["vocab"] = [pieces[number] for number in new_id if number < len(pieces)]  # added tokens come after these
        model["unk_id"] = new_id.get(model["unk_id"])
    else:
        model["vocab"] = {piece: new_id[number] for piece, number in pieces.items() if number in new_id}


def _renumber(post_processor: dict | None, new_id: dict[int, int]) -> None:
    """Update the ids of [CLS] and [SEP], which a template or BERT's own post-processor adds to each text."""
    processor = post_processor or {}
    for token in (processor.get("special_tokens") or {}).values():
        token["ids"] = [new_id[number] for number in token["ids"]]
    for name in ("sep", "cls"):
        if name in processor:
            processor[name] = [processor[name][0], new_id[processor[name][1]]]
