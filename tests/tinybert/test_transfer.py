import datasets
import pytest
import tiny

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


@pytest.mark.parametrize("kind", ["text_classification", "question_answering"])
def test_without_variants_the_rows_and_the_unlabelled_ones_keep_the_numbers_of_their_logits(kind):
    long = " ".join(tiny.NOUNS * 3)  # a passage of several windows
    texts = {"text": long} if kind == "text_classification" else {"question": "is the film good", "passage": long}
    rows = [{**texts, "variant": number % 3} for number in range(6)] + [texts]  # the last one is unlabelled
    options = {"metric": "f1", "stride": 4} if kind == "question_answering" else {}
    task = tiny.task([], kind=kind, max_length=48, **options)
    whole, part = (transfer.encode(task, rows, tiny.tokenizer(), augmented) for augmented in (True, False))
    windows = len(whole) // len(rows)
    assert part["number"][:] == [number for number in range(len(whole)) if number // windows in (0, 3, 6)]
    assert part[:] == whole.select(part["number"][:])[:]
