"""TinyBERT's word replacement (Jiao et al. 2020, algorithm 1): words that may be replaced, a seeded draw for each row
among their candidates, and splicing into the original text.
"""

import hashlib
import random
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from gensim.models import KeyedVectors
from nltk.tokenize import NLTKWordTokenizer
from torch import nn
from tqdm import tqdm

from pipeline.tinybert.augmentation.candidates import Candidates, Sentence, Word
from pipeline.tinybert.core import launch, resume
from pipeline.tinybert.core.settings import Augment
from pipeline.tinybert.data import rows as rows_on_disk
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.tasks import Task
from pipeline.tinybert.tasks.task import spliced

ROWS_AT_ONCE, CHARACTERS_AT_ONCE = 1024, 200_000
# NLTK rewrites double quotes before it looks for them in the text; blanks of the same length leave nothing to rewrite.
QUOTES = re.compile("\"|''|``")


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
        self.task, self.tokenizer, self.stop_words, self.settings = task, tokenizer, stop_words, settings
        self.candidates = Candidates(model, tokenizer, vectors, settings)
        self.entities = task.exchangeable(train) if settings.entities else {}
        self.sentences: dict[str, Sentence] = {}

    def __call__(self, rows: Iterable[Row]) -> Iterator[Row]:
        for block in blocks(rows):
            yield from self.made_of(block)

    def made_of(self, block: list[Row]) -> Iterator[Row]:
        """What rows become that are in memory together."""
        fields_of = [self.task.replaceable(row) for row in block]
        self.read({text for fields in fields_of for text, _ in fields.values()})
        for row, fields in zip(block, fields_of, strict=True):
            sentences = {name: self.sentences[text].within(spans) for name, (text, spans) in fields.items()}
            yield from self.variants(row, sentences)

    def read(self, texts: set[str]) -> None:
        """Make ``sentences`` those of ``texts``, with candidates for all their words, whatever a row allows: so a
        passage is asked about once, however many questions its rows ask. What the block before knew of it is kept.
        """
        known = {text: self.sentences[text] for text in sorted(texts) if text in self.sentences}
        new = {text: self.sentence(text) for text in sorted(texts) if text not in known}
        if self.settings.variants:
            self.candidates.find(list(new.values()))
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
                own = [*self.candidates.pieces_of.get(word.lower(), []), *([] if piece is None else [pieces[piece]])]
                words.append(Word(start, end, word, piece, own))
        return Sentence(text, pieces, words)

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


def write_all(augmenter: Augmenter, train: Path, folder: Path, out: Path) -> tuple[int, int]:
    """Write the rows of the file ``train`` and their variants to the file ``out``. Returns how many they were, and are.

    In ``folder`` each process keeps what it has made, of every so many-th block, for a run that goes on.
    """
    total, made = rows_on_disk.count(train), _Made(folder, launch.rank())
    with tqdm(total=total, unit="row", disable=launch.rank() > 0) as progress:
        for number, block in enumerate(blocks(rows_on_disk.read(train))):
            if number % launch.world_size() == launch.rank() and number // launch.world_size() >= len(made):
                made.add(augmenter.made_of(block))
            progress.update(len(block))
    made.close()
    launch.wait()
    parts = [_Made(folder, number) for number in range(launch.world_size())]
    if launch.rank() == 0:
        _join(parts, out)
    for part in parts:
        part.close()
    return total, sum(part.rows for part in parts)


def blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Enough rows to fill batches of each length, or fewer, where they are long: a minute's work is at stake."""
    block, size = [], 0
    for row in rows:
        block.append(row)
        size += len(rows_on_disk.line(row))
        if len(block) * launch.world_size() >= ROWS_AT_ONCE or size > CHARACTERS_AT_ONCE:
            yield block
            block, size = [], 0
    if block:
        yield block


def _join(parts: list["_Made"], out: Path) -> None:
    """Their blocks in turn: the rows in order."""
    with open(out, "wb") as file:
        for number in range(sum(map(len, parts))):
            parts[number % len(parts)].copy_next(file)


class _Made:
    """The rows that a process has made of its blocks, one block after the other, in a file; and where each block ends,
    in another, which a block counts in once it is whole.
    """

    def __init__(self, folder: Path, process: int):
        self.noted = folder / f"made-{process}.json"
        kept = resume.read(self.noted) or {"rows": 0, "ends": [0]}
        self.rows, self.ends, self.copied = kept["rows"], kept["ends"], 0
        self.file = open(folder / f"made-{process}.jsonl", "a+b")  # noqa: SIM115
        self.file.truncate(self.ends[-1])

    def __len__(self) -> int:
        return len(self.ends) - 1

    def add(self, rows: Iterable[Row]) -> None:
        lines = [rows_on_disk.line(row).encode() for row in rows]
        self.file.writelines(lines)
        self.file.flush()
        self.rows, self.ends = self.rows + len(lines), [*self.ends, self.file.tell()]
        resume.write(self.noted, {"rows": self.rows, "ends": self.ends})

    def copy_next(self, file: BinaryIO) -> None:
        start, end = self.ends[self.copied : self.copied + 2]
        self.file.seek(start)
        file.write(self.file.read(end - start))
        self.copied += 1

    def close(self) -> None:
        self.file.close()


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


def _seed(seed: int, row_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{row_id}".encode()).digest()[:8], "big")
