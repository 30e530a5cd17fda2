import datasets
import pytest

from pipeline.tinybert import transfer

DATA = datasets.Dataset.from_dict({"number": list(range(100))})


def test_a_sample_is_drawn_by_its_seed_without_replacement():
    first, again, other = (transfer.sample(DATA, 20, seed)["number"][:] for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) == 20
    assert min(first) < 30 and max(first) >= 70


@pytest.mark.parametrize("count", [None, 100, 101])
def test_a_sample_of_as_many_rows_as_there_are_is_all_of_them(count):
    assert transfer.sample(DATA, count, seed=1)["number"][:] == list(range(100))
