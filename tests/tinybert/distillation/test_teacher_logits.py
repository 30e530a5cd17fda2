import tracemalloc

import numpy as np
import pytest
import torch

from pipeline.tinybert.distillation import teacher_logits as module
from pipeline.tinybert.distillation.teacher_logits import Logits


def unknown(folder, counts, classes) -> Logits:
    return Logits.unknown(folder, np.array(counts, dtype=np.uint16), classes)


def missing(logits) -> list[int]:
    return np.concatenate(list(logits.missing())).tolist()


@pytest.fixture(params=[1, 2, 100], autouse=True)
def at_once(request, monkeypatch):
    """Whatever the parts in which the files are gone through."""
    monkeypatch.setattr(module, "AT_ONCE", request.param)
    monkeypatch.setattr(module, "LOOKED_AT", request.param)


def test_logits_of_sequences_of_several_lengths_are_put_and_given_back_in_batches(tmp_path):
    logits = unknown(tmp_path, [2, 1, 3], classes=2)
    assert missing(logits) == [0, 1, 2]
    kept = torch.tensor([[False, True, True, True], [True, False, True, False]])
    values = torch.arange(16.0).reshape(2, 4, 2)
    logits.put(np.array([2, 0]), values, kept)
    assert missing(logits) == [1]
    np.testing.assert_array_equal(logits[2], [[2, 3], [4, 5], [6, 7]])
    np.testing.assert_array_equal(logits[0], [[8, 9], [12, 13]])
    assert torch.equal(logits.batch(np.array([2, 0]), kept), values * kept.unsqueeze(-1))


def test_a_run_that_goes_on_finds_what_was_computed_and_what_was_missing_at_first(tmp_path):
    counts = np.array([2, 1, 3], dtype=np.uint16)
    logits = Logits.kept(tmp_path, counts, 2)
    logits.put(np.array([1]), torch.ones(1, 1, 2), torch.tensor([[True]]))
    assert [number for part in logits.first_missing() for number in part] == [0, 2]
    logits.put(np.array([2]), torch.ones(1, 3, 2), torch.tensor([[True] * 3]))
    logits.close()
    again = Logits.kept(tmp_path, counts, 2)
    assert missing(again) == [0]
    assert [number for part in again.first_missing() for number in part] == [0, 2]
    assert again.known(np.array([1, 2])) and not again.known(np.array([2, 0]))


def test_processes_put_into_one_file_beside_each_other(tmp_path):
    """Each reads what is known, and while it computes the other puts what lies between."""
    counts = np.arange(200) % 3 + 1
    one, other = (Logits.kept(tmp_path, counts, 2) for _ in range(2))
    for begin in range(0, 200, 10):
        halves = [np.arange(begin + first, begin + 10, 2) for first in (0, 1)]
        assert not any(logits.known(numbers) for logits, numbers in zip((one, other), halves, strict=True))
        for logits, numbers in zip((one, other), halves, strict=True):
            kept = torch.arange(3) < torch.from_numpy(counts[numbers]).unsqueeze(1)
            logits.put(numbers, torch.from_numpy(numbers).float().view(-1, 1, 1).expand(-1, 3, 2), kept)
    assert missing(one) == missing(other) == []
    assert all((one[number] == number).all() for number in range(200))


def test_a_sequence_without_rows_is_not_missing(tmp_path):
    assert missing(unknown(tmp_path, [0, 1, 0], classes=3)) == [1]


@pytest.mark.parametrize("classes", [1, 2])
def test_logits_are_saved_as_numpy_saves_them_and_loaded(tmp_path, classes):
    logits = unknown(tmp_path, [1, 2], classes)
    values = torch.rand(2, 2, classes)
    logits.put(np.array([0, 1]), values, torch.tensor([[True, False], [True, True]]))
    saved = tmp_path / "saved"
    saved.mkdir()
    logits.save(saved)
    expected = {"values": values.numpy()[[0, 1, 1], [0, 0, 1]], "starts": np.array([0, 1, 3])}
    for name, array in expected.items():
        np.save(tmp_path / "expected.npy", array)
        assert (saved / f"{name}.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    loaded = Logits.load(saved)
    assert len(loaded) == 2
    for number in range(2):
        np.testing.assert_array_equal(loaded[number], logits[number])


def test_logits_of_another_number_of_rows_are_refused(tmp_path):
    logits = unknown(tmp_path, [2, 1], classes=2)
    with pytest.raises(ValueError, match="sequence 0: 1 rows, expected 2"):
        logits.put(np.array([0]), torch.ones(1, 2, 2), torch.tensor([[True, False]]))


def test_a_file_that_ends_too_soon_is_refused(tmp_path):
    unknown(tmp_path, [1, 2], classes=2).close()
    (tmp_path / "values.npy").write_bytes((tmp_path / "values.npy").read_bytes()[:-8])
    with pytest.raises(ValueError, match="values.npy: 2 entries, expected 3"):
        Logits.load(tmp_path)


def test_looking_for_missing_logits_takes_little_memory_however_many_rows_a_sequence_has(tmp_path, monkeypatch):
    monkeypatch.undo()

    def peak(sequences: int) -> int:
        tracemalloc.start()
        logits = unknown(tmp_path, [300] * sequences, classes=9)
        assert len(missing(logits)) == sequences
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)
    assert (peak(2100) - peak(100)) / 2000 < 60  # bytes a sequence: the lists of this test, and of the numbers found
