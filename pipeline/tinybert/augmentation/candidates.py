"""What may stand for a word (Jiao et al. 2020, algorithm 1): other words that the masked language model proposes in its
place, or, for a word of several word-pieces, its nearest neighbours among the GloVe vectors.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from pipeline.tinybert.core import launch
from pipeline.tinybert.models.families import word_logits
from pipeline.tinybert.models.precision import to_inference

if TYPE_CHECKING:
    from gensim.models import KeyedVectors

    from pipeline.tinybert.core.settings import Augment
    from pipeline.tinybert.tasks.task import Span

PADDED_TO = 2
# Sums in float32 differ in their last digits with the shape of the batch; what is closer than this is looked at again.
CLOSE_LOGITS = 1e-4
SPARE_NEIGHBOURS = 10
BEGINS_A_WORD = ("Ġ", "▁")


@dataclass
class Word:
    """A word that may be replaced: its span in the text, its word-piece (None: several), the word-pieces that would be
    the word itself, and what may stand for it.
    """

    start: int
    end: int
    text: str
    piece: int | None
    own: list[int]
    candidates: list[str] = field(default_factory=list)


@dataclass
class Sentence:
    """A text, as word-pieces, with its replaceable words."""

    text: str
    pieces: list[int]
    words: list[Word]

    def within(self, spans: list[Span]) -> Sentence:
        """The same text, of which only the words inside one of the spans may be replaced."""
        inside = [word for word in self.words if any(low <= word.start and word.end <= high for low, high in spans)]
        return replace(self, words=inside)


@dataclass
class Masked:
    """One forward of the masked language model: the word-pieces, and the words masked at its positions."""

    pieces: list[int]
    words: dict[int, Word]


class Candidates:
    """Candidates for the words of sentences, the same ones whatever else is asked at the same time."""

    def __init__(self, model: nn.Module, tokenizer, vectors: KeyedVectors, settings: Augment):
        self.tokenizer, self.vectors, self.settings = tokenizer, vectors, settings
        self.neighbours: dict[str, list[str]] = {}
        self.whole_words = _whole_words(tokenizer)
        self.proposed = list(self.whole_words.values())
        self.place = {piece: place for place, piece in enumerate(self.whole_words)}
        self.model = to_inference(of_words(model, list(self.whole_words)), "float32", launch.device())
        self.pieces_of: dict[str, list[int]] = {}
        for piece, word in self.whole_words.items():
            self.pieces_of.setdefault(word.lower(), []).append(piece)
        self.longest = tokenizer.model_max_length - 2

    def find(self, sentences: list[Sentence]) -> None:
        """Fill every word's candidates: from the masked language model for words of one word-piece, else from GloVe."""
        words = [word for sentence in sentences for word in sentence.words]
        self.ask_vectors([word for word in words if word.piece is None])
        masked = [forward for sentence in sentences for forward in self.masked_forwards(sentence)]
        for batch in _batches_of_one_length(masked, self.settings.batch_size):
            self.ask_model(batch)

    def masked_forwards(self, sentence: Sentence) -> Iterator[Masked]:
        """A sentence with some of its words masked, ``masked_at_once`` at most, as far apart as they can be.

        A text longer than the model takes is cut to a window around one masked word.
        """
        words = [word for word in sentence.words if word.piece is not None]
        long = len(sentence.pieces) > self.longest
        forwards = -(-len(words) // (1 if long else self.settings.masked_at_once))
        for number in range(forwards):
            chosen = words[number::forwards]
            first = _window_start(chosen[0].piece, len(sentence.pieces), self.longest)
            pieces = sentence.pieces[first : first + self.longest]
            for word in chosen:
                pieces[word.piece - first] = self.tokenizer.mask_token_id
            yield Masked(
                [self.tokenizer.cls_token_id, *pieces, self.tokenizer.sep_token_id],
                {word.piece - first + 1: word for word in chosen},
            )

    def ask_model(self, batch: list[Masked]) -> None:
        """The masked language model's K best whole words at each masked position, the word itself left out.

        Where the K-th word and the next are too close to call, the forward is decided alone, as in any other batch.
        """
        words = [forward.words[position] for forward in batch for position in sorted(forward.words)]
        logits = self.logits(batch)
        for row, word in zip(logits, words, strict=True):
            row[[self.place[piece] for piece in word.own if piece in self.place]] = -torch.inf
        count = self.settings.candidates
        best = logits.topk(min(count + 1, logits.size(-1)), dim=-1)
        for word, values, places in zip(words, best.values.tolist(), best.indices.tolist(), strict=True):
            proposed = [self.proposed[place] for place, value in zip(places, values, strict=True) if value > -np.inf]
            word.candidates = sorted(proposed[:count])
        if len(batch) > 1 and best.values.size(-1) > count:
            close = (best.values[:, count - 1] - best.values[:, count] < CLOSE_LOGITS).tolist()
            undecided = {id(word) for word, is_close in zip(words, close, strict=True) if is_close}
            for forward in batch:
                if any(id(word) in undecided for word in forward.words.values()):
                    self.ask_model([forward])

    @torch.no_grad()
    def logits(self, batch: list[Masked]) -> torch.Tensor:
        """Logits over the whole words at the masked positions of a batch, (masked, words), by row and position."""
        length = max(len(masked.pieces) for masked in batch)
        length = min(-(-length // PADDED_TO) * PADDED_TO, self.longest + 2)
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

    def ask_vectors(self, words: list[Word]) -> None:
        """The K nearest words by cosine, once for each distinct word; a word without a vector has none."""
        known = {word.text.lower() for word in words} & self.vectors.key_to_index.keys()
        new = sorted(known - self.neighbours.keys())
        self.neighbours |= nearest_words(self.vectors, new, self.settings.candidates)
        for word in words:
            word.candidates = self.neighbours.get(word.text.lower(), [])


def nearest_words(vectors: KeyedVectors, words: list[str], count: int, at_once: int = 512) -> dict[str, list[str]]:
    """The ``count`` nearest words by cosine of each word, itself excluded; none where it is unknown."""
    found: dict[str, list[str]] = {word: [] for word in words}
    known = [word for word in words if word in vectors.key_to_index]
    if not known:
        return found
    unit = vectors.get_normed_vectors()
    for start in range(0, len(known), at_once):
        part = known[start : start + at_once]
        own = np.array([vectors.key_to_index[word] for word in part])
        cosines = torch.from_numpy(unit[own] @ unit.T)
        cosines[torch.arange(len(part)), torch.from_numpy(own)] = -torch.inf
        best = cosines.topk(min(count + SPARE_NEIGHBOURS, len(unit) - 1), dim=-1).indices.numpy()
        for word, number, near in zip(part, own, best, strict=True):
            near = [vectors.index_to_key[index] for index in _nearest(unit, number, near)]
            found[word] = sorted([other for other in near if other.lower() != word][:count])
    return found


def _nearest(unit: np.ndarray, own: int, near: np.ndarray) -> np.ndarray:
    """The indices ``near``, nearest first, by cosines that do not depend on what else is computed at the same time."""
    cosines = (unit[near].astype(np.float64) * unit[own]).sum(axis=-1)
    return near[np.lexsort((near, -cosines))]


def _whole_words(tokenizer) -> dict[int, str]:
    """Word-piece → what it reads, of those that are whole words: letters only, no part of a word, not special.

    Vocabularies mark either what continues a word (``##``) or what begins one (``Ġ`` or ``▁``).
    """
    pieces = [piece or "" for piece in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    marked = next((mark for mark in BEGINS_A_WORD if sum(piece.startswith(mark) for piece in pieces) > 1), "")
    special = set(tokenizer.all_special_tokens)
    begins = [piece.startswith(marked) and piece not in special for piece in pieces]
    if marked:
        pieces = [tokenizer.convert_tokens_to_string([piece]).strip() if piece else "" for piece in pieces]
    found = enumerate(zip(begins, pieces, strict=True))
    return {number: piece for number, (begin, piece) in found if begin and piece.isalpha()}


def _window_start(piece: int, length: int, longest: int) -> int:
    return max(0, min(piece - longest // 2, length - longest))


def _batches_of_one_length(masked: list[Masked], size: int) -> Iterator[list[Masked]]:
    """Batches whose rows are padded to the same length, whatever the batch size: the same sums, the same words."""
    by_length: dict[int, list[Masked]] = {}
    for forward in masked:
        by_length.setdefault(-(-len(forward.pieces) // PADDED_TO), []).append(forward)
    for length in sorted(by_length, reverse=True):  # so that memory, once there, is enough
        group = by_length[length]
        for start in range(0, len(group), size):
            yield group[start : start + size]


def of_words(model: nn.Module, words: list[int]) -> nn.Module:
    """A copy of a masked language model, whose logits are over these of its word-pieces alone, in this order."""
    model = copy.deepcopy(model)
    whole = model.get_output_embeddings()
    part = nn.Linear(whole.in_features, len(words), device="meta")
    part.weight, part.bias = (nn.Parameter(values.detach()[words]) for values in (whole.weight, whole.bias))
    model.set_output_embeddings(part)
    return model
