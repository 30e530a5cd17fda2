import numpy as np
import pytest
import torch
from damage import KINDS, damage

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.distillation import teacher_logits as module
from pipeline.tinybert.distillation.teacher_logits import TeacherLogits


def unknown(folder, counts, classes) -> TeacherLogits:
    return TeacherLogits.create(folder, np.array(counts, dtype=np.uint16), classes)


def unknown_now(logits) -> list[int]:
    return [number for number in range(len(logits)) if not logits.known(np.array([number]))]


def of_sequence(logits, number: int, rows: int) -> np.ndarray:
    return logits.batch(np.array([number]), torch.ones(1, rows, dtype=torch.bool))[0].numpy()


@pytest.fixture(params=[1, 2, 100])
def blocks(request, monkeypatch):
    """How many sequences are looked at together."""
    monkeypatch.setattr(module, "SEQUENCES_PER_BLOCK", request.param)


def test_logits_of_sequences_of_several_lengths_are_written_and_read_in_batches(tmp_path, blocks):
    logits = unknown(tmp_path, [2, 1, 3], classes=2)
    assert unknown_now(logits) == [0, 1, 2]
    mask = torch.tensor([[False, True, True, True], [True, False, True, False]])
    values = torch.arange(16.0).reshape(2, 4, 2)
    logits.put(np.array([2, 0]), values, mask)
    assert unknown_now(logits) == [1]
    np.testing.assert_array_equal(of_sequence(logits, 2, 3), [[2, 3], [4, 5], [6, 7]])
    np.testing.assert_array_equal(of_sequence(logits, 0, 2), [[8, 9], [12, 13]])
    assert torch.equal(logits.batch(np.array([2, 0]), mask), values * mask.unsqueeze(-1))


def test_a_resumed_run_finds_what_was_computed_and_committed(tmp_path, blocks):
    counts = np.array([2, 1, 3], dtype=np.uint16)
    logits = TeacherLogits.open_or_create(tmp_path, counts, 2)
    values, mask = torch.rand(2, 3, 2), torch.tensor([[True] * 3, [False, True, False]])
    logits.put(np.array([2, 1]), values, mask)
    logits.commit()
    logits.put(np.array([0]), torch.ones(1, 2, 2), torch.tensor([[True, True]]))
    logits.close()
    again = TeacherLogits.open_or_create(tmp_path, counts, 2)
    assert unknown_now(again) == [0]
    np.testing.assert_array_equal(of_sequence(again, 2, 3), values[0])
    np.testing.assert_array_equal(of_sequence(again, 1, 1), values[1, 1:2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["logits-0.bin", "logits-0.bin.json"])
def test_logits_in_a_damaged_file_are_computed_again(tmp_path, name, kind):
    counts = np.array([1, 1], dtype=np.uint16)
    logits = TeacherLogits.open_or_create(tmp_path, counts, 2)
    logits.put(np.array([1]), torch.ones(1, 1, 2), torch.tensor([[True]]))
    logits.commit()
    logits.close()
    damage(tmp_path / name, kind)
    assert unknown_now(TeacherLogits.open_or_create(tmp_path, counts, 2)) == [0, 1]


def test_sequences_come_in_blocks(monkeypatch):
    monkeypatch.setattr(module, "SEQUENCES_PER_BLOCK", 2)
    numbers = np.array([0, 1, 3, 4, 5, 6], dtype=np.int32)
    assert [block.tolist() for block in module._blocks(numbers)] == [[0, 1], [3], [4, 5], [6]]


def test_files_that_an_interrupted_run_had_not_created_completely_are_created_again(tmp_path):
    counts = np.array([2, 1], dtype=np.uint16)
    (tmp_path / "values.npy").write_bytes(b"half")
    assert unknown_now(TeacherLogits.open_or_create(tmp_path, counts, 2)) == [0, 1]


def test_processes_write_into_one_file_beside_each_other(tmp_path, blocks):
    """Each reads what is known, and while it computes the other writes what lies between."""
    counts = np.arange(200) % 3 + 1
    one, other = TeacherLogits.create(tmp_path, counts, 2), TeacherLogits.load(tmp_path, mode="r+")
    for begin in range(0, 200, 10):
        halves = [np.arange(begin + first, begin + 10, 2) for first in (0, 1)]
        assert not any(logits.known(numbers) for logits, numbers in zip((one, other), halves, strict=True))
        for logits, numbers in zip((one, other), halves, strict=True):
            mask = torch.arange(3) < torch.from_numpy(counts[numbers]).unsqueeze(1)
            logits.put(numbers, torch.from_numpy(numbers).float().view(-1, 1, 1).expand(-1, 3, 2), mask)
    assert unknown_now(one) == unknown_now(other) == []
    assert all((of_sequence(one, number, counts[number]) == number).all() for number in range(200))


def test_a_sequence_without_rows_is_not_missing(tmp_path, blocks):
    logits = unknown(tmp_path, [0, 1, 0], classes=3)
    assert unknown_now(logits) == [1]


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
    loaded = TeacherLogits.load(saved)
    assert len(loaded) == 2
    for number in range(2):
        np.testing.assert_array_equal(*(of_sequence(each, number, number + 1) for each in (loaded, logits)))


def test_logits_of_another_number_of_rows_are_refused(tmp_path):
    logits = unknown(tmp_path, [2, 1], classes=2)
    with pytest.raises(ValueError, match="sequence 0: 1 rows, expected 2"):
        logits.put(np.array([0]), torch.ones(1, 2, 2), torch.tensor([[True, False]]))


@pytest.mark.parametrize("name", ["values", "starts"])
@pytest.mark.parametrize("kind", ["truncated", "emptied", "zeroed"])
def test_damaged_logits_are_refused_with_what_to_do(tmp_path, blocks, name, kind):
    counts = np.array([2, 1, 3], dtype=np.uint16)
    unknown(tmp_path, counts, classes=2).close()
    TeacherLogits.load_for(tmp_path, counts, 2).close()
    assert damage(tmp_path / f"{name}.npy", kind)
    with pytest.raises(UserError, match="is damaged, or of other rows .* run `dvc repro`"):
        TeacherLogits.load_for(tmp_path, counts, 2)


@pytest.mark.parametrize(("counts", "classes"), [([2, 1], 2), ([2, 3, 1], 2), ([2, 1, 3, 1], 2), ([2, 1, 3], 3)])
def test_logits_of_other_rows_are_refused(tmp_path, blocks, counts, classes):
    unknown(tmp_path, [2, 1, 3], classes=2).close()
    with pytest.raises(UserError, match="of other rows"):
        TeacherLogits.load_for(tmp_path, np.array(counts, dtype=np.uint16), classes)


def test_the_mean_of_several_teachers_is_that_of_those_that_know_a_row(tmp_path, blocks):
    several = [unknown(tmp_path / name, [1, 2, 1], classes=2) for name in "ab" if (tmp_path / name).mkdir() is None]
    for logits, values in zip(several, ([1.0, 2.0], [3.0, 6.0]), strict=True):
        logits.put(np.array([0]), torch.tensor([[values]]), torch.tensor([[True]]))
    several[1].put(np.array([1]), torch.ones(1, 2, 2), torch.ones(1, 2, dtype=torch.bool))
    (tmp_path / "saved").mkdir()
    module.save_mean(several, tmp_path / "saved")
    found = TeacherLogits.load(tmp_path / "saved")
    np.testing.assert_array_equal(found.values[:], [[2, 4], [1, 1], [1, 1], [np.nan, np.nan]])
    assert found.known_sequences().tolist() == [True, True, False]


def test_a_sequence_is_known_if_any_of_its_rows_is_and_if_it_has_none(tmp_path, blocks):
    logits = unknown(tmp_path, [2, 0, 1, 2], classes=2)
    logits.values[np.array([1])] = 5.0
    assert logits.known_sequences().tolist() == [True, True, False, False]
