"""Candidate replacements for words (TinyBERT, Jiao et al. 2020, algorithm 1).

A word that is one word piece gets the masked language model's most likely words in its place; a word of several
word pieces gets its nearest neighbours among the GloVe vectors.
"""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from pipeline.tinybert.core import launch
from pipeline.tinybert.data.words import is_word
from pipeline.tinybert.models.families import word_logits
from pipeline.tinybert.models.precision import to_inference

if TYPE_CHECKING:
    from gensim.models import KeyedVectors
    from transformers import PreTrainedModel

    from pipeline.tinybert.core.settings import Augment
    from pipeline.tinybert.tasks.task import Span

LENGTH_MULTIPLE = 2  # sequences are padded to a multiple of this length
# The last digits of float32 sums depend on the shape of the batch. Where the last accepted and the first rejected logit
# are closer than this, the sequence is run again in a batch of its own.
CLOSE_LOGITS = 1e-4
# In a text of ``LONG`` word pieces or more, a forward masks ``masked_at_once`` words for every ``WINDOW`` word pieces:
# by default, a third of the text. One forward is then enough for most texts. (60 % of the proposed words are the same
# as with one masked word per forward.)
LONG, WINDOW = 80, 9  # word pieces
SPARE_NEIGHBOURS = 10  # extra neighbours, since other spellings of the word itself are dropped
WORD_START_MARKS = ("Ġ", "▁")  # byte-level BPE, SentencePiece


@dataclass
class Word:
    """A replaceable word.

    start, end: its span in the text.
    piece: index of its word piece in the sentence; None if it has several.
    own: ids of the word pieces that spell the same word, in any case; the model must not propose them.
    candidates: its possible replacements, sorted.
    """

    start: int
    end: int
    text: str
    piece: int | None
    own: list[int]
    candidates: list[str] = field(default_factory=list)


@dataclass
class Sentence:
    """A text, the ids of its word pieces, and its replaceable words."""

    text: str
    pieces: list[int]
    words: list[Word]

    def within(self, spans: list[Span]) -> Sentence:
        """The same text; only words inside one of the spans stay replaceable."""
        inside = [word for word in self.words if any(low <= word.start and word.end <= high for low, high in spans)]
        return replace(self, words=inside)


@dataclass
class Masked:
    """One input sequence of the masked language model: word-piece ids, and position → the word masked there."""

    pieces: list[int]
    words: dict[int, Word]


class Candidates:
    """Finds candidates. The candidates of a sentence do not depend on the sentences processed together with it."""

    def __init__(self, model: PreTrainedModel, tokenizer, vectors: KeyedVectors, settings: Augment):
        self.tokenizer, self.vectors, self.settings = tokenizer, vectors, settings
        self.neighbours: dict[str, list[str]] = {}
        self.whole_words = _whole_words(tokenizer)
        self.vocabulary = list(self.whole_words.values())
        self.column_of = {piece: column for column, piece in enumerate(self.whole_words)}
        self.model = to_inference(restrict_head(model, list(self.whole_words)), "float32", launch.device())
        self.pieces_of: dict[str, list[int]] = {}
        for piece, word in self.whole_words.items():
            self.pieces_of.setdefault(word.lower(), []).append(piece)
        self.longest = tokenizer.model_max_length - 2

    def find(self, sentences: list[Sentence]) -> None:
        """Set ``candidates`` of every word: by the masked language model for single word pieces, else by GloVe."""
        words = [word for sentence in sentences for word in sentence.words]
        self.find_by_vectors([word for word in words if word.piece is None])
        masked = [forward for sentence in sentences for forward in self.masked_forwards(sentence)]
        on_cpu = self.model.device.type == "cpu"
        for batch in _equal_length_batches(masked, self.settings.batch_size, LONG if on_cpu else None):
            self.find_by_model(batch)

    def masked_forwards(self, sentence: Sentence) -> Iterator[Masked]:
        """Copies of a sentence that together mask each of its words once.

        Each copy masks at most ``masked_at_once`` words, as far apart as possible; in a text of ``LONG`` word pieces or
        more, that many for each ``WINDOW`` word pieces. A text longer than the model's maximum is read in parts, with
        half a part's length of context before and behind.
        """
        length = len(sentence.pieces)
        part = self.longest // 2 if length > self.longest else max(length, 1)
        for start in range(0, length, part):
            first = max(0, min(start - part // 2, length - self.longest))
            pieces = sentence.pieces[first : first + self.longest]
            words = [
                (word.piece - first, word)
                for word in sentence.words
                if word.piece is not None and start <= word.piece < start + part
            ]
            forwards = count_forwards(min(part, len(pieces)), len(words), self.settings.masked_at_once)
            for number in range(forwards):
                yield self.mask(pieces, dict(words[number::forwards]))

    def mask(self, pieces: list[int], words: dict[int, Word]) -> Masked:
        """An input of the model: ``pieces``, with the words at these positions masked."""
        masked = [self.tokenizer.mask_token_id if at in words else piece for at, piece in enumerate(pieces)]
        return Masked(
            [self.tokenizer.cls_token_id, *masked, self.tokenizer.sep_token_id],
            {at + 1: word for at, word in words.items()},
        )

    def find_by_model(self, batch: list[Masked]) -> None:
        """Set the candidates to the model's K most likely whole words at each masked position, except the word itself.

        Where the K-th and the next logit are too close (``CLOSE_LOGITS``), the sequence is run again on its own, so
        that the batch it came in cannot change the choice.
        """
        words = [forward.words[position] for forward in batch for position in sorted(forward.words)]
        logits = self.logits(batch)
        for row, word in zip(logits, words, strict=True):
            row[[self.column_of[piece] for piece in word.own if piece in self.column_of]] = -torch.inf
        count = self.settings.candidates
        best = logits.topk(min(count + 1, logits.size(-1)), dim=-1)
        for word, values, columns in zip(words, best.values.tolist(), best.indices.tolist(), strict=True):
            ranked = zip(columns, values, strict=True)
            proposed = [self.vocabulary[column] for column, value in ranked if value > -np.inf]
            word.candidates = sorted(proposed[:count])
        if len(batch) > 1 and best.values.size(-1) > count:
            close = (best.values[:, count - 1] - best.values[:, count] < CLOSE_LOGITS).tolist()
            undecided = {id(word) for word, is_close in zip(words, close, strict=True) if is_close}
            for forward in batch:
                if any(id(word) in undecided for word in forward.words.values()):
                    self.find_by_model([forward])

    @torch.no_grad()
    def logits(self, batch: list[Masked]) -> torch.Tensor:
        """Logits (M, W) over the W whole words at the batch's M masked positions, in order of row and position."""
        length = max(len(masked.pieces) for masked in batch)
        length = min(-(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, self.longest + 2)
        ids = torch.full((len(batch), length), self.tokenizer.pad_token_id)
        attention = torch.zeros_like(ids)
        positions = torch.zeros_like(ids, dtype=torch.bool)
        for row, masked in enumerate(batch):
            ids[row, : len(masked.pieces)] = torch.tensor(masked.pieces)
            attention[row, : len(masked.pieces)] = 1
            positions[row, list(masked.words)] = True
        device = self.model.device
        inputs = {"input_ids": ids.to(device), "attention_mask": attention.to(device)}
        return word_logits(self.model, inputs, positions.to(device)).float().cpu()

    def find_by_vectors(self, words: list[Word]) -> None:
        """Set the candidates to the K nearest words by cosine, looked up once per distinct word.

        A word without a vector gets no candidates.
        """
        spellings = [self.spelling(word) for word in words]
        new = sorted(set(spellings) & self.vectors.key_to_index.keys() - self.neighbours.keys())
        self.neighbours |= nearest_words(self.vectors, new, self.settings.candidates)
        for word, spelling in zip(words, spellings, strict=True):
            word.candidates = self.neighbours.get(spelling, [])

    def spelling(self, word: Word) -> str:
        """A word as the vectors may spell it: in lower case, and an accent in one character with its letter."""
        lower = word.text.lower()
        return lower if lower in self.vectors.key_to_index else unicodedata.normalize("NFC", lower)


def count_forwards(pieces: int, words: int, masked_at_once: int) -> int:
    """How many forwards it takes to mask each of ``words`` words once, in a text of ``pieces`` word pieces."""
    windows = pieces // WINDOW if pieces >= LONG else 1
    return -(-words // (masked_at_once * windows))


def nearest_words(vectors: KeyedVectors, words: list[str], count: int, chunk_size: int = 512) -> dict[str, list[str]]:
    """Word → its ``count`` nearest words by cosine, sorted, without the word itself; an empty list if unknown."""
    nearest: dict[str, list[str]] = {word: [] for word in words}
    known = [word for word in words if word in vectors.key_to_index]
    if not known:
        return nearest
    unit = vectors.get_normed_vectors()
    for start in range(0, len(known), chunk_size):
        part = known[start : start + chunk_size]
        own = np.array([vectors.key_to_index[word] for word in part])
        cosines = torch.from_numpy(unit[own] @ unit.T)
        cosines[torch.arange(len(part)), torch.from_numpy(own)] = -torch.inf
        best = cosines.topk(min(count + SPARE_NEIGHBOURS, len(unit) - 1), dim=-1).indices.numpy()
        for word, number, indices in zip(part, own, best, strict=True):
            near = [vectors.index_to_key[index] for index in _by_cosine(unit, number, indices)]
            nearest[word] = sorted([other for other in near if other.lower() != word][:count])
    return nearest


def _by_cosine(unit: np.ndarray, own: int, near: np.ndarray) -> np.ndarray:
    """Sort the indices ``near``, nearest first, by cosines in float64, which do not depend on the size of a chunk."""
    cosines = (unit[near].astype(np.float64) * unit[own]).sum(axis=-1)
    return near[np.lexsort((near, -cosines))]


def _whole_words(tokenizer) -> dict[int, str]:
    """Id → text of the word pieces that are whole words: letters only, not a part of a word, not a special token.

    A vocabulary marks either the pieces that continue a word (``##``) or those that begin one (``Ġ`` or ``▁``).
    """
    pieces = [piece or "" for piece in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    mark = next((mark for mark in WORD_START_MARKS if sum(piece.startswith(mark) for piece in pieces) > 1), "")
    special = set(tokenizer.all_special_tokens)
    begins_word = [piece.startswith(mark) and piece not in special for piece in pieces]
    if mark:
        pieces = [tokenizer.convert_tokens_to_string([piece]).strip() if piece else "" for piece in pieces]
    numbered = enumerate(zip(begins_word, pieces, strict=True))
    return {number: piece for number, (begins, piece) in numbered if begins and is_word(piece)}


def _equal_length_batches(masked: list[Masked], size: int, alone_from: int | None = None) -> Iterator[list[Masked]]:
    """Batches of sequences with the same padded length, so that the batch size does not change the padding.

    Padding changes the last digits of the logits, and with them the chosen words.
    alone_from: a sequence of more word pieces than this fills a processor and is a batch of its own: in a larger batch,
    one in four would be run again for its close logits.
    """
    by_length: dict[int, list[Masked]] = {}
    for forward in masked:
        by_length.setdefault(-(-len(forward.pieces) // LENGTH_MULTIPLE), []).append(forward)
    for length in sorted(by_length, reverse=True):  # the longest first: later batches reuse its memory
        group = by_length[length]
        at_once = 1 if alone_from and length * LENGTH_MULTIPLE > alone_from else size
        for start in range(0, len(group), at_once):
            yield group[start : start + at_once]


def restrict_head(model: PreTrainedModel, words: list[int]) -> PreTrainedModel:
    """A copy of a masked language model that has logits only for the word pieces ``words``, in this order."""
    model = copy.deepcopy(model)
    full: Any = model.get_output_embeddings()
    restricted = nn.Linear(full.in_features, len(words), device="meta")
    restricted.weight, restricted.bias = (nn.Parameter(values.detach()[words]) for values in (full.weight, full.bias))
    model.set_output_embeddings(restricted)
    return model
