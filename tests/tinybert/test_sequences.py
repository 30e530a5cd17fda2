import tracemalloc

import numpy as np
import pytest
import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from pipeline.tinybert.sequences import ByLength, SequencesWriter


@pytest.mark.parametrize("count", [1, 3, 31, 32, 129, 3000])
@pytest.mark.parametrize("batch_size", [1, 8, 32])
def test_the_order_is_that_of_the_library_s_sampler(count, batch_size):
    lengths = np.random.default_rng(count).integers(2, 60, count).astype(np.uint16)
    ours, theirs = ByLength(lengths, batch_size), LengthGroupedSampler(batch_size, lengths=lengths.tolist())
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = list(theirs)
        torch.manual_seed(seed)
        assert list(ours) == expected
    assert len(ours) == len(theirs)


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
        for number in ByLength(data.lengths, 32):
            data[number]
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1)
    order = torch.randperm(1).element_size()  # which the trace does not see
    assert (peak(60) - peak(10)) / 50_000 + order < 16


def test_nothing_encoded_is_an_empty_set(tmp_path):
    data = SequencesWriter(tmp_path).finished()
    assert len(data) == 0 and list(data) == [] and data.counts().tolist() == []
