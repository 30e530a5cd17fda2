import random
import tracemalloc

import numpy as np
import pytest
import tiny
import torch

from pipeline.tinybert.models.batches import ByLength, Collator
from pipeline.tinybert.models.sequences import SequencesWriter


def test_sequences_and_their_order_take_a_few_bytes_each(tmp_path):
    block = {"input_ids": [[1, 2, 3]] * 1000, "token_type_ids": [[0] * 3] * 1000, "kept": [[True]] * 1000}

    def peak(blocks: int) -> int:
        folder = tmp_path / str(blocks)
        folder.mkdir()
        tracemalloc.start()
        writer = SequencesWriter(folder)
        for _ in range(blocks):
            writer.add(block)
        data = writer.finished()
        for number in ByLength(data.lengths, 32, seed=1):
            data[number]
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1)
    assert (peak(60) - peak(10)) / 50_000 < 16


def test_nothing_encoded_is_an_empty_set(tmp_path):
    data = SequencesWriter(tmp_path).finished()
    assert len(data) == 0 and list(data) == [] and data.counts().tolist() == []


@pytest.mark.parametrize("kept", ["each", "some"])
@pytest.mark.parametrize("selected", [False, True])
def test_a_batch_read_as_a_whole_is_that_of_its_rows(tmp_path, selected, kept):
    draw = random.Random(1)
    ids = [[draw.randrange(5, 99) for _ in range(draw.randint(2, 40))] for _ in range(50)]
    flags = [[True] if kept == "each" else [draw.random() < 0.5 for _ in row] for row in ids]
    writer = SequencesWriter(tmp_path)
    for part in (slice(0, 20), slice(20, 50)):
        segments = [[number % 2 for number in range(len(row))] for row in ids[part]]
        writer.add({"input_ids": ids[part], "token_type_ids": segments, "kept": flags[part]})
    data = writer.finished()
    if selected:
        data = data.select(np.arange(49, 0, -3))
    collate, numbers = Collator(tiny.tokenizer(), "kept", "number"), [7, 0, 12, 3]
    whole, rows = collate(data.batch(numbers)), collate([data[number] for number in numbers])
    assert list(whole) == list(rows) and whole["input_ids"].size(0) == 4
    for name, values in rows.items():
        assert whole[name].dtype == values.dtype and torch.equal(whole[name], values), name
