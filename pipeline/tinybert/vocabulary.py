"""A smaller vocabulary for a finished model: the word-pieces that a task needs. Other words fall to shorter pieces."""

import json
from collections.abc import Iterable

from torch import nn

from pipeline.tinybert.stage import UserError

CONTINUED = "##"


def needed(tokenizer, sequences: Iterable[list[int]], words: Iterable[str], key: str) -> list[int]:
    """Ids, in order: of all that occurs in the encoded sequences and in the words, of the special tokens, and of single
    characters, from which every word can be spelled that could be before.

    Raises UserError, which names the setting ``key``, where the tokenizer is not one of word-pieces.
    """
    if json.loads(tokenizer.backend_tokenizer.to_str())["model"]["type"] != "WordPiece":
        raise UserError(f"{key}: only a vocabulary of word-pieces can be trimmed, this is {type(tokenizer).__name__}")
    found = {*tokenizer.all_special_ids}
    found |= {number for piece, number in tokenizer.get_vocab().items() if len(piece.removeprefix(CONTINUED)) == 1}
    found.update(*sequences)
    found.update(*tokenizer(list(words), add_special_tokens=False)["input_ids"])
    return sorted(found)


def trim(model: nn.Module, tokenizer, kept: list[int]):
    """Let ``model`` have the embeddings of these ids alone, in this order; the tokenizer that reads so."""
    embeddings = model.get_input_embeddings()
    padding = kept.index(tokenizer.pad_token_id)
    smaller = nn.Embedding.from_pretrained(embeddings.weight.data[kept].clone(), freeze=False, padding_idx=padding)
    model.set_input_embeddings(smaller)
    model.config.vocab_size, model.config.pad_token_id = len(kept), padding
    pieces = {number: piece for piece, number in tokenizer.get_vocab().items()}
    options = {name: value for name, value in tokenizer.init_kwargs.items() if name not in ("vocab", "vocab_file")}
    made = type(tokenizer)(vocab={pieces[number]: place for place, number in enumerate(kept)}, **options)
    made.model_max_length = tokenizer.model_max_length
    return made
