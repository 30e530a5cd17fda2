"""A start for the teacher of pairs: what the encoder already knows about the similarity of two texts.

A sentence encoder places similar texts close together. A model of pairs reads both texts at once, and a few hundred
labelled pairs do not teach it to compare them. So it first learns the encoder's own similarity, on new combinations of
the texts of train. (Augmented SBERT, Thakur et al. 2021, arXiv 2010.08240, does it in the other direction: a model of
pairs labels new pairs for a sentence encoder.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from transformers import AutoModel

from pipeline.tinybert.core import launch, resume
from pipeline.tinybert.core.log import log
from pipeline.tinybert.data import neighbours
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.embeddings import mean_embeddings
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.inference import encode
from pipeline.tinybert.tasks.regression import Regression
from pipeline.tinybert.training.fine_tuning import LabelObjective
from pipeline.tinybert.training.teacher_start import TeacherStart

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import FinetuneTeacher
    from pipeline.tinybert.tasks import Task

BATCH_SIZE = 16  # at most
FEWEST_TEXTS = 10  # of two texts, all pairs have the same similarity
LEAST_EXPLAINED = 0.1  # share of the labels' variance
# A teacher that has learned similarity has less to learn from the labels, and more to lose.
LEARNING_RATE_FACTOR = 0.3


def wanted(task: Task, train: list[Row], settings: FinetuneTeacher) -> bool:
    """Whether the rows are pairs with one label each: a class or a number."""
    return bool(settings.similarity_steps) and task.is_pair(train[0]) and not isinstance(train[0]["label"], list)


def batch_size(settings: FinetuneTeacher) -> int:
    return min(BATCH_SIZE, settings.batch_size)


@contextlib.contextmanager
def start(first: TeacherStart) -> Iterator[tuple[Path, FinetuneTeacher]]:
    """The folder of the encoder in which the teacher starts, and the settings to train it with.

    The rows are pairs. The folder is ``first.encoder``, or, if the similarity of the two texts explains some of the
    labels' variance, an encoder that has learned it in ``similarity_steps``. Then the labels have a smaller learning
    rate.
    """
    settings = first.settings
    texts = list(dict.fromkeys(chain.from_iterable((row["text"], row["pair"]) for row in first.train)))
    embeddings = mean_embeddings(checkpoints.load(AutoModel, first.encoder).to(launch.device()), first.tokenizer, texts)
    share = explained_variance(first.train, dict(zip(texts, embeddings, strict=True)))
    is_of_use = share >= LEAST_EXPLAINED and len(texts) >= FEWEST_TEXTS
    log(
        f"the similarity of a pair's embeddings explains {share:.0%} of the labels' variance: the teacher"
        + (" learns it first (similarity_steps)" if is_of_use else " does not learn it first")
    )
    if not is_of_use:
        yield first.encoder, settings
        return
    seed = first.numerics.seed
    similarity = Regression("pearson", first.task.max_length, None, ["similarity"])
    pairs = draw_pairs(texts, embeddings, settings.similarity_steps * BATCH_SIZE, seed)
    data = EncodedRows.in_memory(encode(similarity, pairs, first.tokenizer))
    with resume.folder(f"{first.name}-similarity") as folder:
        model = similarity.load_model(first.encoder, seed)
        first.learn("similarity", model, LabelObjective(similarity), data, batch_size(settings), folder / "encoder")
        del model  # the labels are learned inside the block, by a model of their own
        rates = [LEARNING_RATE_FACTOR * rate for rate in settings.learning_rates]
        yield folder / "encoder", settings.model_copy(update={"learning_rate": rates})


def explained_variance(rows: list[Row], embeddings: dict[str, np.ndarray]) -> float:
    """The share of the labels' variance that the cosine of the two texts explains: the squared correlation with a
    number, the correlation ratio (eta squared) with classes. It is adjusted for chance: the fewer the rows, the more
    variance chance explains.
    """
    cosines = np.array([embeddings[row["text"]] @ embeddings[row["pair"]] for row in rows])
    labels = np.array([row["label"] for row in rows])
    kinds = np.unique(labels)
    if not cosines.std() or len(kinds) < 2:
        return 0.0
    if np.issubdtype(labels.dtype, np.number):
        share, parameters = np.corrcoef(cosines, labels)[0, 1] ** 2, 2
    else:
        parts = [cosines[labels == kind] for kind in kinds]
        between = sum(len(part) * (part.mean() - cosines.mean()) ** 2 for part in parts)
        share, parameters = between / len(cosines) / cosines.var(), len(kinds)
    if len(rows) <= parameters:
        return 0.0
    return max(0.0, float(1 - (1 - share) * (len(rows) - 1) / (len(rows) - parameters)))


def draw_pairs(texts: list[str], embeddings: np.ndarray, count: int, seed: int) -> list[Row]:
    """``count`` pairs of near and far texts with their cosine (mean 0, variance 1) as ``label``."""
    draw = np.random.default_rng(seed)
    chosen = np.sort(draw.permutation(len(texts))[: neighbours.MOST])
    cosines = embeddings[chosen] @ embeddings[chosen].T
    firsts, seconds = neighbours.draw_pairs(cosines, count, draw)
    labels = cosines[firsts, seconds]
    labels = (labels - labels.mean()) / labels.std()
    return [
        {"text": texts[chosen[first]], "pair": texts[chosen[second]], "label": float(label)}
        for first, second, label in zip(firsts, seconds, labels, strict=True)
    ]
