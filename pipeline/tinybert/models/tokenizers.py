"""Whether a tokenizer fits its model, splits text as another one does, and keeps capitals."""

from __future__ import annotations

import unicodedata
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from pipeline.tinybert.models.families import family_of

# What tokenizers treat differently: case, accents, composed characters, punctuation, blanks, scripts without blanks.
SAMPLE = (
    "The Quick brown FOX, isn't it? 3,140.5 €/kg (state-of-the-art): “naïve” Café's résumé… @user #tag a_b c++",
    "  two  blanks\tand\nlines\u00a0of\u200btext ",
    "ÜBER straße İstanbul Ελλάδα Москва cafe\u0301 ﬁne ½ ＡＢＣ",
    "東京タワー 中文字符 한국어 हिन्दी ภาษาไทย עברית العربية 😀",
)
FILES = ("tokenizer.json", "vocab.*", "*.model")
NO_WORDS = (
    "its tokenizer has no words: copy the tokenizer's files of the original model: tokenizer.json and"
    " tokenizer_config.json, or vocab.txt"
)
SAMPLED_WORDS = 200
UNKNOWN = "𒀀"  # in few vocabularies
BEGINS_WORD = "Ġ▁"  # marks of byte-level and sentence-piece vocabularies
FEW = 0.01  # an uncased vocabulary has a smaller share of words with capitals
SHOWN = 12


def check_files(folder: Path) -> None:
    """Raise ValueError if the folder of a checkpoint has no file of a tokenizer's words."""
    if not any(any(folder.glob(pattern)) for pattern in FILES):
        raise ValueError(NO_WORDS)


def check(tokenizer, config: Any) -> None:
    """Raise ValueError if the tokenizer has no words, or if the model of ``config`` cannot take its word pieces."""
    if not tokenizer.is_fast:
        raise ValueError(f"its tokenizer, {type(tokenizer).__name__}, has no fast version: expected a tokenizer.json")
    numbers = tokenizer.get_vocab()
    if not numbers.keys() - set(tokenizer.all_special_tokens):
        raise ValueError(NO_WORDS)
    if len(set(numbers.values())) < len(numbers):
        raise ValueError("its tokenizer gives several word pieces one number: its file lacks its special tokens")
    last = max(numbers, key=numbers.__getitem__)
    if numbers[last] >= config.vocab_size:
        raise ValueError(
            f"its tokenizer gives '{last}' the number {numbers[last]}, but there are {config.vocab_size} embeddings:"
            " remove the added tokens, or call resize_token_embeddings and train them"
        )
    words_or_unknown = isinstance(tokenizer.backend_tokenizer.model, WordPiece)
    for name in ("pad_token", "mask_token", *(["unk_token"] if words_or_unknown else [])):
        if getattr(tokenizer, name) is None:
            raise ValueError(f"its tokenizer has no {name}: name it in tokenizer_config.json")
    if not tokenizer.num_special_tokens_to_add():
        raise ValueError("its tokenizer adds no special tokens to a text: expected a post_processor in tokenizer.json")
    if family_of(config).reserved_positions and config.pad_token_id != tokenizer.pad_token_id:
        raise ValueError(
            f"pad_token_id is {config.pad_token_id} in config.json, but {tokenizer.pad_token_id} in its tokenizer:"
            " positions are counted from it"
        )
    tokenizer(UNKNOWN)  # raises an error if the vocabulary has no token for unknown words


def difference(one, other) -> tuple[str, str, str] | None:
    """The first sample text that two tokenizers of the same vocabulary split differently, and the word pieces of each;
    None if they agree. The sample: some words of the vocabulary, each in several forms, and ``SAMPLE``.
    """
    texts = sample_of(one)
    ours, theirs = (tokenizer(texts, texts) for tokenizer in (one, other))
    for name in ours.keys() & theirs.keys():
        for text, our_ids, their_ids in zip(texts, ours[name], theirs[name], strict=True):
            if our_ids != their_ids:
                return text, _pieces(one, text), _pieces(other, text)
    return None


def sample_of(tokenizer) -> list[str]:
    """Words of the vocabulary, each in several forms, and ``SAMPLE``."""
    words = [word for word in _words(tokenizer) if len(word) > 2][:SAMPLED_WORDS]
    return [*chain.from_iterable(map(_forms, words)), *SAMPLE]


def begin_words_with_a_space(tokenizer) -> None:
    """Let a byte-level tokenizer read words that are given one by one as it reads them in a text."""
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    if isinstance(splitter, ByteLevel):
        splitter.add_prefix_space = True


def _forms(word: str) -> tuple[str, ...]:
    accented = unicodedata.normalize("NFC", f"{word[0]}\u0301{word[1:]}")
    return word, word.capitalize(), word.upper(), accented, f"{word}'{word}"


def _words(tokenizer) -> list[str]:
    numbers = tokenizer.get_vocab()
    pieces = (piece.lstrip(BEGINS_WORD) for piece in sorted(numbers, key=numbers.__getitem__))
    return [piece for piece in pieces if piece.isalpha()]


def _pieces(tokenizer, text: str) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])[:SHOWN])


def difference_to_file(tokenizer, folder: Path) -> tuple[str, str, str] | None:
    """``difference`` of a tokenizer to the tokenizer.json in its folder. They may differ: for some tokenizer classes,
    the library reads only the vocabulary from this file.
    """
    file = folder / "tokenizer.json"
    if not file.is_file() or not isinstance(tokenizer.backend_tokenizer.model, WordPiece):
        return None
    return difference(tokenizer, PreTrainedTokenizerFast(tokenizer_file=str(file)))


def lost_capitals(tokenizer) -> str | None:
    """A word with capitals from the vocabulary that the tokenizer changes. None unless the vocabulary has many such
    words and the tokenizer changes most of them.
    """
    if not isinstance(tokenizer.backend_tokenizer.model, WordPiece):
        return None
    words = _words(tokenizer)
    capitals = [word for word in words if word != word.lower()]
    lost = [word for word in capitals[:SAMPLED_WORDS] if tokenizer.tokenize(word) != [word]]
    many = len(capitals) > FEW * len(words)
    return lost[0] if many and 2 * len(lost) > len(capitals[:SAMPLED_WORDS]) else None
