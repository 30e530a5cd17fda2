import tracemalloc

from pipeline.tinybert.batches import ByLength
from pipeline.tinybert.sequences import SequencesWriter


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
