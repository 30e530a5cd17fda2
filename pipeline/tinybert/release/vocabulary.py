"""A smaller vocabulary for a finished model: the word-pieces that a task needs. Other words fall to shorter pieces."""

import copy
import json
from collections.abc import Iterable

from tokenizers import Tokenizer
from torch import nn

from pipeline.tinybert.core.errors import UserError

CONTINUED = "##"


def needed(tokenizer, sequences: Iterable[list[int]], words: Iterable[str], key: str) -> list[int]:
    """Ids, in order: of all that occurs in the encoded sequences and in the words, of tokens that were added, and of
    the single characters of which other words can be spelled.

    Raises UserError, which names the setting ``key``, where the tokenizer is not one of word-pieces.
    """
    if _description(tokenizer)["model"]["type"] != "WordPiece":
        raise UserError(f"{key}: only a vocabulary of word-pieces can be trimmed, this is {type(tokenizer).__name__}")
    found = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    found |= {number for piece, number in tokenizer.get_vocab().items() if len(piece.removeprefix(CONTINUED)) == 1}
    found.update(*sequences)
    if words := list(words):
        found.update(*tokenizer(words, add_special_tokens=False)["input_ids"])
    return sorted(found)


def trim(model: nn.Module, tokenizer, kept: list[int]):
    """Let ``model`` have the embeddings of these ids alone, in this order; the tokenizer that reads so."""
    place = {number: index for index, number in enumerate(kept)}
    padding = place[tokenizer.pad_token_id]
    embeddings = model.get_input_embeddings().weight.data[kept].clone()
    model.set_input_embeddings(nn.Embedding.from_pretrained(embeddings, freeze=False, padding_idx=padding))
    model.config.vocab_size, model.config.pad_token_id = len(kept), padding

    described = _description(tokenizer)
    pieces = described["model"]["vocab"]
    described["model"]["vocab"] = {piece: place[number] for piece, number in pieces.items() if number in place}
    for token in described["added_tokens"]:
        token["id"] = place[token["id"]]
    _renumber(described["post_processor"], place)
    smaller = copy.deepcopy(tokenizer)
    smaller._tokenizer = Tokenizer.from_str(json.dumps(described))
    return smaller


def check(tokenizer, before: list[list[int]], smaller, after: list[list[int]], key: str) -> None:
    """UserError where the smaller tokenizer has read texts of kept word-pieces otherwise."""
    for ours, theirs in zip(after, before, strict=True):
        if smaller.convert_ids_to_tokens(ours) != tokenizer.convert_ids_to_tokens(theirs):
            raise UserError(
                f"{key}: {type(tokenizer).__name__} cannot be trimmed: what it reads of train changes: leave it blank"
            )


def _description(tokenizer) -> dict:
    return json.loads(tokenizer.backend_tokenizer.to_str())


def _renumber(processor: dict | None, place: dict[int, int]) -> None:
    """Of the tokens that are put around a text: as a template, or as BERT's own has them."""
    for token in ((processor or {}).get("special_tokens") or {}).values():
        token["ids"] = [place[number] for number in token["ids"]]
    for name in ("sep", "cls"):
        if name in (processor or {}):
            processor[name] = [processor[name][0], place[processor[name][1]]]
