"""TinyBERT's word replacement (Jiao et al. 2020, algorithm 1): candidates from the masked language model and GloVe,
a seeded draw for each row, and splicing into the original text.
"""

import hashlib
import random
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from gensim.models import KeyedVectors
from nltk.tokenize import NLTKWordTokenizer
from torch import nn
from tqdm import tqdm

from pipeline.tinybert import models, scratch
from pipeline.tinybert import rows as rows_on_disk
from pipeline.tinybert.rows import Row
from pipeline.tinybert.settings import Augment
from pipeline.tinybert.tasks import Task
from pipeline.tinybert.tasks.task import Span, spliced

ROWS_AT_ONCE, CHARACTERS_AT_ONCE = 1024, 200_000
PADDED_TO = 2
# Sums in float32 differ in their last digits with the shape of the batch; what is closer than this is looked at again.
CLOSE_LOGITS = 1e-4
SPARE_NEIGHBOURS = 10
BEGINS_A_WORD = ("Ġ", "▁")
# NLTK rewrites double quotes before it looks for them in the text; blanks of the same length leave nothing to rewrite.
QUOTES = re.compile("\"|''|``")


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

    def within(self, spans: list[Span]) -> "Sentence":
        """The same text, of which only the words inside one of the spans may be replaced."""
        inside = [word for word in self.words if any(low <= word.start and word.end <= high for low, high in spans)]
        return replace(self, words=inside)


@dataclass
class Masked:
    """One forward of the masked language model: the word-pieces, and the words masked at its positions."""

    pieces: list[int]
    words: dict[int, Word]


class Augmenter:
    """Variants of rows: ``for row in augmenter(rows)``, each row before its own.

    What a row gives depends on the row, its id, the seed and the models alone: batches may have any size.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        tokenizer,
        vectors: KeyedVectors,
        stop_words: Collection[str],
        settings: Augment,
        train: Iterable[Row] = (),
    ):
        """``train`` are the rows whose entities may stand for one another, where the settings allow it."""
        self.task, self.tokenizer, self.vectors, self.settings = task, tokenizer, vectors, settings
        self.stop_words = stop_words
        self.entities = task.exchangeable(train) if settings.entities else {}
        self.model = model.eval().to(PartialState().device)
        self.neighbours: dict[str, list[str]] = {}
        self.sentences: dict[str, Sentence] = {}
        self.word_pieces, self.is_word = _whole_words(tokenizer, model.config.vocab_size)
        self.pieces_of: dict[str, list[int]] = {}
        for number in self.is_word.nonzero().flatten().tolist():
            self.pieces_of.setdefault(self.word_pieces[number].lower(), []).append(number)
        self.longest = tokenizer.model_max_length - 2

    def __call__(self, rows: Iterable[Row]) -> Iterator[Row]:
        for _, made in self.in_blocks(rows):
            yield from made

    def in_blocks(self, rows: Iterable[Row]) -> Iterator[tuple[int, list[Row]]]:
        """How many rows have been taken, and what they have become; then the next ones."""
        for block in _blocks(rows):
            fields_of = [self.task.replaceable(row) for row in block]
            self.read({text for fields in fields_of for text, _ in fields.values()})
            made = []
            for row, fields in zip(block, fields_of, strict=True):
                sentences = {name: self.sentences[text].within(spans) for name, (text, spans) in fields.items()}
                made += self.variants(row, sentences)
            yield len(block), made

    def read(self, texts: set[str]) -> None:
        """Make ``sentences`` those of ``texts``, with candidates for all their words, whatever a row allows: so a
        passage is asked about once, however many questions its rows ask. What the block before knew of it is kept.
        """
        known = {text: self.sentences[text] for text in sorted(texts) if text in self.sentences}
        new = {text: self.sentence(text) for text in sorted(texts) if text not in known}
        if self.settings.variants:
            self.find_candidates(list(new.values()))
        self.sentences = known | new

    def sentence(self, text: str) -> Sentence:
        """Word-pieces and replaceable words of a text: letters only, no stop word."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        pieces, words = encoded["input_ids"], []
        piece_at = {
            tuple(span): index
            for index, span in enumerate(encoded["offset_mapping"])
            if pieces[index] != self.tokenizer.unk_token_id
        }
        for start, end in word_spans(text):
            word = text[start:end]
            if word.isalpha() and word.lower() not in self.stop_words and is_whole(text, start, end):
                piece = piece_at.get((start, end))
                own = [*self.pieces_of.get(word.lower(), []), *([] if piece is None else [pieces[piece]])]
                words.append(Word(start, end, word, piece, own))
        return Sentence(text, pieces, words)

    def find_candidates(self, sentences: list[Sentence]) -> None:
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
        logits.masked_fill_(~self.is_word, -torch.inf)
        for row, word in zip(logits, words, strict=True):
            row[word.own] = -torch.inf
        count = self.settings.candidates
        best = logits.topk(min(count + 1, logits.size(-1)), dim=-1)
        for word, values, pieces in zip(words, best.values.tolist(), best.indices.tolist(), strict=True):
            proposed = [self.word_pieces[piece] for piece, value in zip(pieces, values, strict=True) if value > -np.inf]
            word.candidates = sorted(proposed[:count])
        if len(batch) > 1 and best.values.size(-1) > count:
            close = (best.values[:, count - 1] - best.values[:, count] < CLOSE_LOGITS).tolist()
            undecided = {id(word) for word, is_close in zip(words, close, strict=True) if is_close}
            for forward in batch:
                if any(id(word) in undecided for word in forward.words.values()):
                    self.ask_model([forward])

    @torch.no_grad()
    def logits(self, batch: list[Masked]) -> torch.Tensor:
        """Logits over the vocabulary at the masked positions of a batch, (words, V), by row and position."""
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
        return models.word_logits(self.model, inputs, positions.to(device)).float().cpu()

    def ask_vectors(self, words: list[Word]) -> None:
        """The K nearest words by cosine, once for each distinct word; a word without a vector has none."""
        known = {word.text.lower() for word in words} & self.vectors.key_to_index.keys()
        new = sorted(known - self.neighbours.keys())
        self.neighbours |= nearest_words(self.vectors, new, self.settings.candidates)
        for word in words:
            word.candidates = self.neighbours.get(word.text.lower(), [])

    def variants(self, row: Row, sentences: dict[str, Sentence]) -> Iterator[Row]:
        """The row itself and its new variants, ``variants`` at most. A variant changes one text of one copy."""
        draw = random.Random(_seed(self.settings.seed, row["id"]))
        seen = {tuple(sentence.text for sentence in sentences.values())}
        yield {**row, "variant": 0}
        names = [name for name, sentence in sentences.items() if self.may_change(sentence)]
        for number in range(self.settings.variants if names else 0):
            name = names[number % len(names)]
            edits = draw_replacements(sentences[name], self.settings.probability, draw)
            if self.entities:
                swaps = self.task.swaps(row, self.entities, self.settings.probability, draw)
                edits = sorted([*edits, *swaps.get(name, [])])
            text = spliced(sentences[name].text, edits)
            made = tuple(text if other == name else sentence.text for other, sentence in sentences.items())
            if made not in seen:
                seen.add(made)
                yield {**self.task.replaced(row, name, edits), "variant": number + 1}

    def may_change(self, sentence: Sentence) -> bool:
        return bool(self.entities) or any(word.candidates for word in sentence.words)


def write_all(augmenter: Augmenter, train: Path, folder: Path) -> tuple[int, int]:
    """Write the rows of the file ``train`` and their variants to `rows.jsonl` in ``folder``, from where a run that was
    killed has come. Returns how many they were, and are.
    """
    total, noted = rows_on_disk.count(train), folder / "written.json"
    kept = scratch.read(noted) or {"rows": 0, "made": 0, "bytes": 0}
    rows = islice(rows_on_disk.read(train), kept["rows"], None)
    with open(folder / "rows.jsonl", "ab") as file, tqdm(total=total, initial=kept["rows"], unit="row") as progress:
        file.truncate(kept["bytes"])
        for count, made in augmenter.in_blocks(rows):
            file.writelines(rows_on_disk.line(row).encode() for row in made)
            file.flush()
            kept = {"rows": kept["rows"] + count, "made": kept["made"] + len(made), "bytes": file.tell()}
            scratch.write(noted, kept)
            progress.update(count)
    return total, kept["made"]


def word_spans(text: str) -> list[tuple[int, int]]:
    """NLTK's words; the full stop that it leaves at the last word of an inner sentence is none of the word."""
    blanked = QUOTES.sub(lambda quote: " " * len(quote.group()), text)
    spans = NLTKWordTokenizer().span_tokenize(blanked)
    return [(start, end - 1 if end - start > 1 and text[end - 1] == "." else end) for start, end in spans]


def is_whole(text: str, start: int, end: int) -> bool:
    """Not a part that NLTK cuts off, as "wo" of "won't" and "gon" of "gonna"."""
    return not (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum())


def draw_replacements(sentence: Sentence, probability: float, draw: random.Random) -> list[tuple[int, int, str]]:
    """Each word with candidates goes with ``probability``, for a candidate drawn uniformly."""
    chosen = []
    for word in sentence.words:
        if word.candidates and draw.random() < probability:
            chosen.append((word.start, word.end, in_the_case_of(word.text, draw.choice(word.candidates))))
    return chosen


def in_the_case_of(original: str, word: str) -> str:
    if len(original) > 1 and original.isupper():
        return word.upper()
    if original[0].isupper():
        return word[0].upper() + word[1:]
    return word


def nearest_words(vectors: KeyedVectors, words: list[str], count: int, at_once: int = 512) -> dict[str, list[str]]:
    """The ``count`` nearest words by cosine of each word, itself excluded; none where it is unknown."""
    found: dict[str, list[str]] = {word: [] for word in words}
    known = [word for word in words if word in vectors.key_to_index]
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


def _whole_words(tokenizer, size: int) -> tuple[list[str], torch.Tensor]:
    """What word-pieces read, in order, and which of them are whole words: letters only, no part of a word, not special.

    Vocabularies mark either what continues a word (``##``) or what begins one (``Ġ`` or ``▁``). ``size`` is the model's
    vocabulary, which may be padded beyond the tokenizer's.
    """
    pieces = [piece or "" for piece in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    marked = next((mark for mark in BEGINS_A_WORD if sum(piece.startswith(mark) for piece in pieces) > 1), "")
    special = set(tokenizer.all_special_tokens)
    begins = [piece.startswith(marked) and piece not in special for piece in pieces]
    if marked:
        pieces = [tokenizer.convert_tokens_to_string([piece]).strip() if piece else "" for piece in pieces]
    is_word = [begin and piece.isalpha() for begin, piece in zip(begins, pieces, strict=True)]
    padding = size - len(pieces)
    return [*pieces, *[""] * padding], torch.tensor([*is_word, *[False] * padding])


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Enough rows to fill batches of each length, or fewer, where they are long: a minute's work is at stake."""
    block, size = [], 0
    for row in rows:
        block.append(row)
        size += len(rows_on_disk.line(row))
        if len(block) == ROWS_AT_ONCE or size > CHARACTERS_AT_ONCE:
            yield block
            block, size = [], 0
    if block:
        yield block


def _window_start(piece: int, length: int, longest: int) -> int:
    return max(0, min(piece - longest // 2, length - longest))


def _batches_of_one_length(masked: list[Masked], size: int) -> Iterator[list[Masked]]:
    """Batches whose rows are padded to the same length, whatever the batch size: the same sums, the same words."""
    by_length: dict[int, list[Masked]] = {}
    for forward in masked:
        by_length.setdefault(-(-len(forward.pieces) // PADDED_TO), []).append(forward)
    for length in sorted(by_length):
        group = by_length[length]
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _seed(seed: int, row_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{row_id}".encode()).digest()[:8], "big")
