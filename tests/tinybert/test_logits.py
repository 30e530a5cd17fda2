import numpy as np
import torch

from pipeline.tinybert.logits import Logits


def test_logits_of_sequences_of_several_lengths_are_put_and_given_back_in_batches():
    logits = Logits.unknown([2, 1, 3], classes=2)
    assert list(logits.missing()) == [0, 1, 2]
    kept = torch.tensor([[False, True, True, True], [True, False, True, False]])
    values = torch.arange(16.0).reshape(2, 4, 2)
    logits.put(np.array([2, 0]), values, kept)
    assert list(logits.missing()) == [1]
    np.testing.assert_array_equal(logits[2], [[2, 3], [4, 5], [6, 7]])
    np.testing.assert_array_equal(logits[0], [[8, 9], [12, 13]])
    assert torch.equal(logits.batch(np.array([2, 0]), kept), values * kept.unsqueeze(-1))


def test_a_sequence_without_rows_is_not_missing():
    assert list(Logits.unknown([0, 1, 0], classes=3).missing()) == [1]


def test_logits_are_saved_and_loaded(tmp_path):
    logits = Logits.unknown([1, 2], classes=2)
    logits.put(np.array([0, 1]), torch.rand(2, 2, 2), torch.tensor([[True, False], [True, True]]))
    logits.save(tmp_path)
    loaded = Logits.load(tmp_path)
    assert len(loaded) == 2 and loaded.values.dtype == np.float32
    for number in range(2):
        np.testing.assert_array_equal(loaded[number], logits[number])
