"""New pairs of texts, for tasks whose rows are pairs: few rows hold few of the pairs that their texts can make."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from pipeline.tinybert.data import neighbours
from pipeline.tinybert.data import rows as rows_on_disk
from pipeline.tinybert.data.rows import Row
from pipeline.tinybert.tasks import Task

CHARACTERS = (3, 5)  # lengths of the character n-grams that texts are compared by, in any language


def append(task: Task, path: Path, splits: Iterable[Path], wanted: int, seed: int) -> int:
    """Append up to ``wanted`` pairs to the augmented rows in ``path``; return their number.

    Up to half of them pair a variant with its original. The others pair texts of two rows: the first text of one with
    the second of another that has more or less in common with it. Pairs that occur in the files of ``splits`` are
    dropped. The new pairs have no label: the teacher's outputs are their targets.
    """
    if not wanted or not task.is_pair(next(rows_on_disk.read(path))):
        return 0
    draw = np.random.default_rng(seed)
    families = _families(path, draw)
    made = [*_of_one_row(task, families, wanted // 2, draw), *_of_two_rows(task, families, wanted - wanted // 2, draw)]
    distinct = {task.duplicate_key(row): row for row in made if row is not None}
    for row in chain.from_iterable(map(rows_on_disk.read, splits)):
        distinct.pop(task.duplicate_key(row), None)
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        for number, row in enumerate(distinct.values()):
            file.write(rows_on_disk.line({"id": f"pair-{number}", **row, "variant": 1}))
    return len(distinct)


def _families(path: Path, draw: np.random.Generator) -> list[list[Row]]:
    """Rows of ``path``, each with its variants behind it: as many as can be compared, drawn at random."""
    originals = sum(not row["variant"] for row in rows_on_disk.read(path))
    chosen = draw.permutation(originals)[: neighbours.MOST].tolist()
    families: dict[int, list[Row]] = {number: [] for number in sorted(chosen)}
    number = -1
    for row in rows_on_disk.read(path):
        if not row["variant"]:  # an original, whose variants follow
            number += 1
        if number in families:
            families[number].append(row)
    return list(families.values())


def _of_one_row(task: Task, families: list[list[Row]], count: int, draw: np.random.Generator) -> Iterator[Row | None]:
    """Variants with their originals."""
    for number in draw.integers(len(families), size=count).tolist():
        yield task.new_pair(_any(families[number], draw), families[number][0])


def _of_two_rows(task: Task, families: list[list[Row]], count: int, draw: np.random.Generator) -> Iterator[Row | None]:
    """Texts of two rows, or of their variants."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # slow to import, and only pairs need it

    if len(families) < 2:
        return
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=CHARACTERS, sublinear_tf=True, dtype=np.float32)
    seconds = vectors.fit_transform([original["pair"] for original, *_ in families])
    firsts = vectors.transform([original["text"] for original, *_ in families])
    pairs = neighbours.draw_pairs((firsts @ seconds.T).toarray(), count, draw)
    for first, second in zip(*(numbers.tolist() for numbers in pairs), strict=True):
        yield task.new_pair(_any(families[first], draw), _any(families[second], draw))


def _any(family: list[Row], draw: np.random.Generator) -> Row:
    return family[draw.integers(len(family))]
