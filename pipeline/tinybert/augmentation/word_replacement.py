"""Data augmentation by word replacement (TinyBERT, Jiao et al. 2020, algorithm 1).

For each training row: find the replaceable words, draw replacements from their candidates with a seeded generator,
and splice them into the original text.
"""

import hashlib
import random
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from gensim.models import KeyedVectors
from tqdm import tqdm
from transformers import PreTrainedModel

from pipeline.tinybert.augmentation.candidates import Candidates, Sentence, Word
from pipeline.tinybert.core import launch
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.settings import Augment
from pipeline.tinybert.core.whole import AppendedFile
from pipeline.tinybert.data import rows as rows_on_disk
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.data.words import UNSPACED, is_word, token_spans
from pipeline.tinybert.tasks import Task
from pipeline.tinybert.tasks.task import splice, with_dropped_characters

BLOCK_ROWS, BLOCK_CHARACTERS = 1024, 200_000
ROWS_WANTED, FEWEST_VARIANTS, MOST_VARIANTS = 18_000, 1, 20  # if `variants` is auto


class Augmenter:
    """Yields each row followed by its variants: ``for row in augmenter(rows)``.

    The variants of a row depend only on the row, its id, the seed and the models, not on the batch size or on other
    rows.
    """

    def __init__(
        self,
        task: Task,
        model: PreTrainedModel,
        tokenizer,
        vectors: KeyedVectors,
        stop_words: Collection[str],
        settings: Augment,
        train: Iterable[Row] = (),
    ):
        """``settings``: with a number of variants, from `with_variants`. ``train``: the rows from which entities are
        collected for replacement, if ``settings.entities`` is on.
        """
        self.task, self.tokenizer, self.stop_words, self.settings = task, tokenizer, stop_words, settings
        self.candidates = Candidates(model, tokenizer, vectors, settings)
        self.most_variants = cast(int, settings.variants)
        limits = (self.candidates.longest, task.pieces_read)
        self.pieces_read = None if None in limits else min(limits)
        self.entities = task.swap_candidates(train) if settings.entities else {}
        self.sentences: dict[str, Sentence] = {}

    def __call__(self, rows: Iterable[Row]) -> Iterator[Row]:
        for block in blocks(rows):
            yield from self.augment_block(block)

    def augment_block(self, block: list[Row]) -> Iterator[Row]:
        """Yield each row of the block, followed by its variants."""
        fields_of = [self.task.replaceable_spans(row) for row in block]
        self.load_sentences({text for fields in fields_of for text, _ in fields.values()})
        for row, fields in zip(block, fields_of, strict=True):
            sentences = {name: self.sentences[text].within(spans) for name, (text, spans) in fields.items()}
            yield from self.variants(row, sentences)

    def load_sentences(self, texts: set[str]) -> None:
        """Set ``self.sentences`` to these texts, with candidates for every word.

        Candidates are computed once per text, for all its words, even those outside a row's spans: many rows may share
        a passage. Texts that the previous block also contained keep their candidates.
        """
        known = {text: self.sentences[text] for text in sorted(texts) if text in self.sentences}
        new = {text: self.sentence(text) for text in sorted(texts) if text not in known}
        if self.most_variants:
            self.candidates.find(list(new.values()))
        self.sentences = known | new

    def sentence(self, text: str) -> Sentence:
        """Tokenize a text and find its replaceable words: letters only, not a stop word, where the model reads it."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        extended = with_dropped_characters(encoded["offset_mapping"], text)
        pieces = encoded["input_ids"][: self.pieces_read]
        spans = [extended[span] for span in encoded["offset_mapping"][: self.pieces_read]]
        piece_at = {span: index for index, span in enumerate(spans) if pieces[index] != self.tokenizer.unk_token_id}
        read = spans[-1][1] if spans else 0
        words = []
        for start, end in word_spans(text):
            word = text[start:end]
            if end > read:
                break
            if is_word(word) and word.lower() not in self.stop_words and is_whole_word(text, start, end):
                piece = piece_at.get((start, end))
                own = [*self.candidates.pieces_of.get(word.lower(), []), *([] if piece is None else [pieces[piece]])]
                words.append(Word(start, end, word, piece, own))
        return Sentence(text, pieces, words)

    def variants(self, row: Row, sentences: dict[str, Sentence]) -> Iterator[Row]:
        """Yield the row, then its distinct variants, at most ``most_variants``.

        A variant changes one field only; the fields take turns.
        """
        draw = random.Random(_seed(self.settings.seed, row["id"]))
        seen = {tuple(sentence.text for sentence in sentences.values())}
        yield {**row, "variant": 0}
        names = [name for name, sentence in sentences.items() if self.has_replacements(sentence)]
        for number in range(self.most_variants if names else 0):
            name = names[number % len(names)]
            edits = draw_replacements(sentences[name], self.settings.probability, draw)
            if self.entities:
                swaps = self.task.draw_swaps(row, self.entities, self.settings.probability, draw)
                edits = sorted([*edits, *swaps.get(name, [])])
            text = splice(sentences[name].text, edits)
            texts = tuple(text if other == name else sentence.text for other, sentence in sentences.items())
            if texts not in seen:
                seen.add(texts)
                yield {**self.task.apply_edits(row, name, edits), "variant": number + 1}

    def has_replacements(self, sentence: Sentence) -> bool:
        return bool(self.entities) or any(word.candidates for word in sentence.words)


def with_variants(recipe: Augment, rows: int) -> Augment:
    """The recipe with a number of variants, if its ``variants`` is auto: few rows get many. The paper (section 4.2) has
    20 to 30 for its small datasets.
    """
    if recipe.variants != "auto":
        return recipe
    variants = min(max(round(ROWS_WANTED / rows), FEWEST_VARIANTS), MOST_VARIANTS)
    log(f"augment.variants: auto: {variants} for {rows} rows")
    return recipe.model_copy(update={"variants": variants})


def write_all(augmenter: Augmenter, train: Path, folder: Path, out: Path) -> tuple[int, int]:
    """Write the rows of the file ``train``, each followed by its variants, to the file ``out``.

    The processes take turns at the blocks. Each one keeps its finished blocks in ``folder``, from which an interrupted
    run resumes. Returns the number of rows read and of rows written.
    """
    total, finished = rows_on_disk.count(train), _FinishedBlocks(folder, launch.rank())
    with tqdm(total=total, unit="row", disable=launch.rank() > 0) as progress:
        for number, block in enumerate(blocks(rows_on_disk.read(train))):
            if number % launch.world_size() == launch.rank() and number // launch.world_size() >= len(finished):
                finished.add(augmenter.augment_block(block))
            progress.update(len(block))
    finished.close()
    launch.wait()
    parts = [_FinishedBlocks(folder, number) for number in range(launch.world_size())]
    if launch.rank() == 0:
        _join(parts, out)
    for part in parts:
        part.close()
    return total, sum(part.rows for part in parts)


def blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Blocks large enough to fill batches of every length, but small enough that a killed run loses a minute at most.

    Long rows make shorter blocks. Several processes share ``BLOCK_ROWS``.
    """
    block, size = [], 0
    for row in rows:
        block.append(row)
        size += len(rows_on_disk.line(row))
        if len(block) * launch.world_size() >= BLOCK_ROWS or size > BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _join(parts: list["_FinishedBlocks"], out: Path) -> None:
    """Write the blocks of all processes to ``out`` in the order of the rows: block n belongs to process n mod P."""
    with open(out, "wb") as file:
        for number in range(sum(map(len, parts))):
            parts[number % len(parts)].copy_next(file)


class _FinishedBlocks:
    """The augmented blocks of one process: a file of rows, and the offset at which each block ends."""

    def __init__(self, folder: Path, process: int):
        self.saved = AppendedFile(folder / f"blocks-{process}.jsonl")
        self.file = self.saved.file
        self.rows, self.ends = self.saved.committed.get("rows", 0), self.saved.committed.get("ends", [0])
        self.copied = 0

    def __len__(self) -> int:
        return len(self.ends) - 1

    def add(self, rows: Iterable[Row]) -> None:
        lines = [rows_on_disk.line(row).encode() for row in rows]
        self.saved.append(b"".join(lines))
        self.rows, self.ends = self.rows + len(lines), [*self.ends, self.saved.size]
        self.saved.commit(rows=self.rows, ends=self.ends)

    def copy_next(self, file: BinaryIO) -> None:
        start, end = self.ends[self.copied : self.copied + 2]
        self.file.seek(start)
        file.write(self.file.read(end - start))
        self.copied += 1

    def close(self) -> None:
        self.saved.close()


def word_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of each word, without the full stop that NLTK leaves on the last word of a sentence in the middle of
    the text.
    """
    spans = token_spans(text)
    return [(start, end - 1 if end - start > 1 and text[end - 1] == "." else end) for start, end in spans]


def is_whole_word(text: str, start: int, end: int) -> bool:
    """False for the parts into which NLTK splits some words, such as "wo" of "won't" or "gon" of "gonna"."""
    edges = (text[max(0, at - 1) : at + 1] for at in (start, end))
    return not any(len(edge) == 2 and edge.isalnum() and not UNSPACED.search(edge) for edge in edges)


def draw_replacements(sentence: Sentence, probability: float, draw: random.Random) -> list[tuple[int, int, str]]:
    """Replace each word that has candidates with ``probability``; the replacement is drawn uniformly.

    Returns (start, end, replacement) in the order of the text.
    """
    chosen = []
    for word in sentence.words:
        if word.candidates and draw.random() < probability:
            chosen.append((word.start, word.end, match_case(word.text, draw.choice(word.candidates))))
    return chosen


def match_case(original: str, word: str) -> str:
    """``word`` in upper case or with a capital first letter, if ``original`` is written so."""
    if len(original) > 1 and original.isupper():
        return word.upper()
    if original[0].isupper():
        return word[0].upper() + word[1:]
    return word


def _seed(seed: int, row_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{row_id}".encode()).digest()[:8], "big")
