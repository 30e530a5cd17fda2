from pathlib import Path

import numpy as np
import pytest

from pipeline.tinybert.data import arrays
from pipeline.tinybert.data.arrays import MappedArray


@pytest.fixture(params=[1, arrays.RESIDENT], ids=["at each block", "never"])
def mapped_anew(request, monkeypatch):
    monkeypatch.setattr(arrays, "RESIDENT", request.param)
    if request.param == 1:
        monkeypatch.setattr(arrays, "BLOCK", 8)


@pytest.fixture
def plain(tmp_path, mapped_anew):
    """The path of a file of 100 values without a header."""
    np.arange(100, dtype=np.int32).tofile(tmp_path / "plain.bin")
    return tmp_path / "plain.bin"


@pytest.mark.parametrize("index", [slice(3, 7), slice(90, 200), slice(5, 5), np.array([7, 99, 0, 7])], ids=str)
def test_entries_are_read_by_slice_and_by_numbers(plain, index):
    array = MappedArray.open(plain, np.int32)
    assert len(array) == 100 and array.shape == (100,) and array.dtype == np.int32
    np.testing.assert_array_equal(array[index], np.arange(100)[index])


def test_entries_that_were_read_are_a_copy(plain):
    array = MappedArray.open(plain, np.int32)
    read = array[0:3]
    read[:] = 7
    np.testing.assert_array_equal(array[0:3], [0, 1, 2])
    array.close()
    np.testing.assert_array_equal(read, [7, 7, 7])


@pytest.mark.parametrize("shape", [(50,), (50, 3)])
def test_an_array_is_a_file_that_numpy_loads(tmp_path, mapped_anew, shape):
    array = MappedArray.create(tmp_path / "a.npy", np.float32, shape, value=np.nan)
    expected = np.full(shape, np.nan, dtype=np.float32)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    for index in (slice(2, 4), np.array([40, 7])):
        values = np.random.default_rng(1).random((2, *shape[1:])).astype(np.float32)
        array[index] = expected[index] = values
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    np.save(tmp_path / "numpy.npy", expected)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


def test_two_that_map_one_file_see_each_other_s_entries(tmp_path, mapped_anew):
    MappedArray.create(tmp_path / "a.npy", np.int64, (1000,), value=-1).close()
    one, other = (MappedArray.open(tmp_path / "a.npy", mode="r+") for _ in range(2))
    one[np.arange(0, 1000, 2)] = 1
    other[np.arange(1, 1000, 2)] = 2
    for array in (one, other):
        np.testing.assert_array_equal(array[0:1000], [1, 2] * 500)


def test_an_array_opened_for_reading_cannot_be_written(plain):
    with pytest.raises(ValueError, match="read-only"):
        MappedArray.open(plain, np.int32)[0:1] = 5


def test_an_empty_file_is_an_array_without_entries(tmp_path):
    (tmp_path / "empty.bin").touch()
    array = MappedArray.open(tmp_path / "empty.bin", np.int32)
    assert len(array) == 0 and array[:].tolist() == []


def test_a_file_that_is_missing_or_ends_too_soon_is_an_error(tmp_path):
    with pytest.raises(OSError, match="none.npy"):
        MappedArray.open(tmp_path / "none.npy")
    path = tmp_path / "short.npy"
    MappedArray.create(path, np.int64, (1000,)).close()
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="mmap length is greater than file size"):
        MappedArray.open(path)


def test_a_closed_array_is_mapped_again_by_the_next_access(plain):
    array = MappedArray.open(plain, np.int32)
    array.close()
    assert array[5:6].tolist() == [5]


def test_an_array_is_mapped_again_from_another_working_folder(plain, monkeypatch):
    monkeypatch.chdir(plain.parent)
    array = MappedArray.open(plain.name, np.int32)
    monkeypatch.chdir("/")
    array.close()
    assert array[5:6].tolist() == [5]


def mapped_mib(path: Path) -> float:
    """How much of the file is in this process's memory, in MiB."""
    with open("/proc/self/smaps") as lines:
        return sum(
            int(next(line for line in lines if line.startswith("Rss")).split()[1]) / 1024
            for line in lines
            if line.endswith(f"{path}\n")
        )


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells what is mapped")
def test_pages_that_were_touched_do_not_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "RESIDENT", 1 << 20)
    path, numbers = tmp_path / "long.npy", np.random.default_rng(1).permutation(1 << 22)
    array = MappedArray.create(path, np.float32, (1 << 22,), value=1.0)
    assert mapped_mib(path) < 2
    for start in range(0, len(array), 1 << 20):
        for part in range(start, start + (1 << 20), 1 << 16):
            assert array[part : part + (1 << 16)].all()
        assert mapped_mib(path) < 2
    for start in range(0, 500, 100):
        for part in range(start, start + 100, 5):
            assert array[numbers[part : part + 5]].all()
        assert mapped_mib(path) < 2
    assert array[numbers[:2000]].all() and mapped_mib(path) < 2
    by_numpy = np.load(path, mmap_mode="r")
    assert by_numpy.all() and mapped_mib(path) > 15


def test_a_full_disk_is_an_error_and_does_not_kill_the_process(tmp_path, small_disk):
    folder = tmp_path / "disk"
    folder.mkdir()
    small_disk(folder, 64)
    with pytest.raises(OSError, match="No space left on device"):
        MappedArray.create(folder / "array.npy", np.float32, (100_000,), value=np.nan)
