import numpy as np
import pytest
import tiny

from pipeline.tinybert.models.batches import MEGABATCH, ByLength, Collator, Pieces, Share, padded_length


def lengths_of(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(2, 300, count).astype(np.uint16)


@pytest.mark.parametrize("count", [1, 3, 31, 32, 129, 3000])
@pytest.mark.parametrize("batch_size", [1, 8, 32])
def test_each_epoch_takes_every_sequence_once_the_longest_first(count, batch_size):
    lengths = lengths_of(count)
    order = list(ByLength(lengths, batch_size, seed=1))
    assert sorted(order) == list(range(count))
    assert lengths[order[0]] == lengths.max()


def test_the_sequences_of_a_batch_are_of_like_lengths_and_drawn_from_all():
    lengths = lengths_of(32 * MEGABATCH * 8)
    order = np.array(list(ByLength(lengths, 32, seed=1)))
    within = np.ptp(lengths[order].reshape(-1, 32), axis=1)
    assert np.median(within) < 10  # of 300
    assert np.ptp(order[: 32 * MEGABATCH]) > 0.99 * len(lengths)


def test_the_order_is_that_of_seed_and_epoch_whatever_is_drawn_between():
    lengths = lengths_of(500)

    def order(seed: int, epoch: int) -> list[int]:
        return list(ByLength(lengths, 8, seed, epoch))

    first = order(1, 0)
    np.random.rand(3)
    assert order(1, 0) == first
    assert first != order(1, 1) != order(2, 1) != first


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_processes_share_each_batch_of_one(processes):
    order = ByLength(lengths_of(101), 20, seed=1)
    whole = [set(batch) for batch in Share(order, 20, 0, 1)]
    shares = [list(Share(order, 20, number, processes)) for number in range(processes)]
    assert len(whole) == len(Share(order, 20, 0, processes)) == 6
    for batch, *parts in zip(whole, *shares, strict=True):
        assert set().union(*parts) == batch
        assert len(batch) < processes or sum(map(len, parts)) == len(batch)


def test_a_batch_with_fewer_rows_than_processes_is_each_one_s():
    shares = [list(Share(ByLength(lengths_of(3), 8, seed=1), 8, number, 4)) for number in range(4)]
    assert all(len(batches) == 1 and sorted(batches[0]) == [0, 1, 2] for batches in shares)


@pytest.mark.parametrize("skip", [1, 5, 6])
@pytest.mark.parametrize("processes", [1, 2])
def test_the_batches_that_a_resumed_epoch_has_done_are_left_out(processes, skip):
    order = ByLength(lengths_of(101), 20, seed=1)
    rest = Share(order, 20, processes - 1, processes, skip)
    assert list(rest) == list(Share(order, 20, processes - 1, processes))[skip:]
    assert len(rest) == 6 - skip and len(rest.batches) == 6


@pytest.mark.parametrize(
    "longest, length", [(7, 7), (31, 31), (33, 34), (65, 68), (127, 128), (130, 136), (300, 304), (384, 384)]
)
def test_longer_sequences_are_padded_to_rounder_lengths(longest, length):
    assert padded_length(longest, 512) == length


def test_there_are_few_lengths_and_little_is_padded():
    found = {longest: padded_length(longest, 512) for longest in range(1, 513)}
    assert len(set(found.values())) < 120
    assert all(longest <= length <= 1.06 * longest for longest, length in found.items())


@pytest.mark.parametrize(("round_lengths", "length"), [(True, 34), (False, 33)])
def test_a_batch_is_padded_to_the_rounded_length_of_its_longest_sequence(round_lengths, length):
    counts = np.array([33, 5])
    batch = {"input_ids": Pieces(np.ones(38, dtype=np.int32), counts), "number": np.array([3, 4])}
    padded = Collator(tiny.tokenizer(), round_lengths=round_lengths)(batch)
    assert padded.keys() == {"input_ids"} and padded["input_ids"].shape == (2, length)
    assert (padded["input_ids"] == 1).sum(dim=1).tolist() == [33, 5]


def test_no_batch_is_longer_than_the_model_takes():
    assert padded_length(509, 510) == 510
