"""Tiny augmenters: a masked language model and word vectors with random weights."""

import numpy as np
import tiny
from gensim.models import KeyedVectors
from gensim.parsing.preprocessing import STOPWORDS

from pipeline.tinybert.augmentation.word_replacement import Augmenter
from pipeline.tinybert.core.settings import Augment

ROWS = [{"id": f"train-{n}", "text": text, "label": label} for n, (text, label) in enumerate(tiny.sentences(24, 5))]
LONG = " ".join(tiny.NOUNS * 12)  # 120 word pieces; the tiny model's maximum is 64
CONTENT = [*tiny.NOUNS, *tiny.ADJECTIVES["positive"], *tiny.RARE.split(), "zebra"]


def vectors_of(words: list[str], seed: int = 0) -> KeyedVectors:
    keyed = KeyedVectors(8)
    keyed.add_vectors(words, np.random.default_rng(seed).normal(size=(len(words), 8)).astype(np.float32))
    return keyed


MODEL = tiny.masked_language_model()
VECTORS = vectors_of([*tiny.WORDS, *tiny.RARE.split()])


def augmenter(model=MODEL, vectors=VECTORS, tokenizer=None, task=None, stop=STOPWORDS, **changes) -> Augmenter:
    values = {
        "seed": 1,
        "variants": 5,
        "candidates": 4,
        "probability": 0.4,
        "masked_at_once": 3,
        "batch_size": 5,
        "entities": False,
        "new_pairs": 0,
        "general_texts": 0,
    }
    task = task or tiny.task(["negative", "positive"])
    return Augmenter(task, model, tokenizer or tiny.tokenizer(), vectors, stop, Augment(**{**values, **changes}))


def of_text(text: str, **changes) -> list[str]:
    return [row["text"] for row in augmenter(**changes)([{"id": "train-0", "text": text, "label": "positive"}])]


def words_of(text: str, spans=None, **changes) -> dict:
    """The replaceable words of a text, with their candidates."""
    maker = augmenter(**changes)
    maker.load_sentences({text})
    return {word.text: word for word in maker.sentences[text].within(spans or [(0, len(text))]).words}
