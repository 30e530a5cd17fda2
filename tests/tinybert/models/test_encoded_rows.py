import random
import tracemalloc

import numpy as np
import pytest
import tiny
import torch
from torch.utils.data import DataLoader

from pipeline.tinybert.models.batches import ByLength, Collator, Pieces, Share
from pipeline.tinybert.models.encoded_rows import EncodedRows, EncodedRowsWriter

SHORT = {"input_ids": [2, 9, 3], "attention_mask": [1, 1, 1], "token_type_ids": [0, 0, 1]}
LONG = {"input_ids": [2, 9, 8, 7, 3], "attention_mask": [1] * 5, "token_type_ids": [0] * 5}


def padded(*also: str, **columns) -> dict[str, list]:
    """The batch of all rows of these columns in memory."""
    data = EncodedRows.in_memory(columns)
    return {
        name: values.tolist()
        for name, values in Collator(tiny.tokenizer(), *also)(data.batch(range(len(data)))).items()
    }


def columns_of(*rows: dict) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_columns_of_word_pieces_are_padded_each_in_its_way():
    tags = {"labels": [[-100, 4, -100], [-100, 1, 2, 0, -100]], "label_mask": [[False, True, False], [True] * 5]}
    pad = tiny.tokenizer().pad_token_id
    assert padded("label_mask", "number", **columns_of(SHORT, LONG), **tags) == {
        "input_ids": [[2, 9, 3, pad, pad], [2, 9, 8, 7, 3]],
        "attention_mask": [[1, 1, 1, 0, 0], [1] * 5],
        "token_type_ids": [[0, 0, 1, 0, 0], [0] * 5],
        "labels": [[-100, 4, -100, -100, -100], [-100, 1, 2, 0, -100]],
        "label_mask": [[False, True, False, False, False], [True] * 5],
        "number": [0, 1],
    }


@pytest.mark.parametrize("labels", [[[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]], [1, 2], [0.5, 2.5]], ids=str)
def test_targets_of_a_whole_text_are_not_padded(labels):
    assert padded(**columns_of(SHORT, LONG), labels=labels)["labels"] == labels


def test_as_many_labels_as_a_text_has_word_pieces_are_labels_of_the_text():
    labels = [[0.5, 1.0, 1.0], [1.0, 0.0, 1.0]]
    assert padded(**columns_of(SHORT, SHORT), labels=labels)["labels"] == labels


@pytest.mark.parametrize(("labels", "dtype"), [([1, 2], torch.int64), ([0.5, 2.5], torch.float32)], ids=str)
def test_targets_have_the_types_that_losses_take(labels, dtype):
    data = EncodedRows.in_memory({**columns_of(SHORT, LONG), "labels": labels})
    assert Collator(tiny.tokenizer())(data.batch([0, 1]))["labels"].dtype == dtype


def test_a_mask_for_the_whole_text_has_one_entry():
    assert padded("label_mask", **columns_of(SHORT, LONG), label_mask=[[True]] * 2)["label_mask"] == [[True], [True]]


def test_positions_of_an_answer_are_columns_and_others_of_the_encoding_are_not():
    columns = {**columns_of(SHORT, LONG), "start_positions": [1, 2], "end_positions": [1, 3], "spans": [[], []]}
    batch = padded(**columns, example=[0, 0])
    assert batch.keys() == {"input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions"}
    assert batch["end_positions"] == [1, 3]


def blocks(label_mask: str) -> tuple[list[dict[str, list]], dict[str, list]]:
    """Columns of 50 random sequences in three blocks, and in one."""
    draw = random.Random(1)
    ids = [[draw.randrange(5, 99) for _ in range(draw.randint(2, 40))] for _ in range(50)]
    masks = [[True] if label_mask == "by text" else [draw.random() < 0.5 for _ in row] for row in ids]
    whole = {
        "input_ids": ids,
        "token_type_ids": [[number % 2 for number in range(len(row))] for row in ids],
        "label_mask": masks,
    }
    parts = [
        {name: values[part] for name, values in whole.items()} for part in (slice(0, 20), slice(20, 35), slice(35, 50))
    ]
    return parts, whole


@pytest.fixture(params=["by text", "by word piece"])
def on_disk_and_in_memory(request, tmp_path) -> tuple[EncodedRows, EncodedRows]:
    parts, whole = blocks(request.param)
    writer = EncodedRowsWriter(tmp_path)
    for part in parts:
        writer.add(part)
    return writer.finished(), EncodedRows.in_memory(whole)


@pytest.mark.parametrize("selected", [False, True])
def test_rows_on_disk_are_what_they_are_in_memory(on_disk_and_in_memory, selected):
    pair, collate = on_disk_and_in_memory, Collator(tiny.tokenizer(), "label_mask", "number")
    if selected:
        pair = [data.select(np.arange(49, 0, -3)) for data in pair]
    on_disk, in_memory = pair
    assert len(on_disk) == len(in_memory) and on_disk.lengths.tolist() == in_memory.lengths.tolist()
    batch, expected = (collate(data.batch([7, 0, 12, 3])) for data in pair)
    assert list(batch) == list(expected) and batch["input_ids"].size(0) == 4
    for name, values in expected.items():
        assert batch[name].dtype == values.dtype and torch.equal(batch[name], values), name


def test_a_selection_of_a_selection_has_the_numbers_of_the_whole(on_disk_and_in_memory):
    for data in on_disk_and_in_memory:
        part = data.select(np.array([40, 30, 20])).select(np.array([2, 0]))
        assert len(part) == 2
        assert part.batch([0, 1])["number"].tolist() == [20, 40]
        assert part.lengths.tolist() == data.lengths[[20, 40]].tolist()


def test_the_others_of_a_selection_are_the_sequences_that_it_leaves_out(on_disk_and_in_memory):
    for data in on_disk_and_in_memory:
        part = data.select(np.arange(10, 49)).select(np.arange(1, 39))
        assert part.others().tolist() == [*range(11), 49] and part.others().dtype == np.int32
        assert not len(data.others())


def test_a_loader_takes_a_batch_as_a_whole(on_disk_and_in_memory):
    collate = Collator(tiny.tokenizer(), "number")
    for data in on_disk_and_in_memory:
        [batch] = DataLoader(data, batch_sampler=[[5, 3]], collate_fn=collate)
        assert batch["number"].tolist() == [5, 3]
        assert batch["attention_mask"].sum(dim=1).tolist() == data.lengths[[5, 3]].tolist()


@pytest.mark.parametrize("label_mask", ["by text", "by word piece"])
def test_the_rows_of_logits_that_count_are_counted(tmp_path, label_mask):
    parts, whole = blocks(label_mask)
    writer = EncodedRowsWriter(tmp_path)
    for part in parts:
        writer.add(part)
    expected = [sum(mask) for mask in whole["label_mask"]]
    data = writer.finished()
    assert data.logit_counts().tolist() == data.select(np.arange(5)).logit_counts().tolist() == expected


def test_only_finished_files_are_loaded(tmp_path):
    assert EncodedRows.load(tmp_path) is None
    writer = EncodedRowsWriter(tmp_path)
    writer.add({"input_ids": [[2, 3]], "label_mask": [[True]]})
    assert EncodedRows.load(tmp_path) is None
    writer.finished()
    loaded = EncodedRows.load(tmp_path)
    assert isinstance(pieces := loaded.batch([0])["input_ids"], Pieces) and pieces.values.tolist() == [2, 3]


def test_nothing_encoded_is_an_empty_set(tmp_path):
    data = EncodedRowsWriter(tmp_path).finished()
    assert len(data) == 0 and data.logit_counts().tolist() == []
    assert len(EncodedRows.in_memory({"input_ids": []})) == 0


def test_encoded_rows_and_their_order_take_a_few_bytes_each(tmp_path):
    block = {"input_ids": [[1, 2, 3]] * 1000, "token_type_ids": [[0] * 3] * 1000, "label_mask": [[True]] * 1000}

    def peak(blocks: int) -> int:
        folder = tmp_path / str(blocks)
        folder.mkdir()
        tracemalloc.start()
        writer = EncodedRowsWriter(folder)
        for _ in range(blocks):
            writer.add(block)
        data = writer.finished()
        for numbers in Share(ByLength(data.lengths, 32, seed=1), 32):
            data.batch(numbers)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1)
    assert (peak(60) - peak(10)) / 50_000 < 16
