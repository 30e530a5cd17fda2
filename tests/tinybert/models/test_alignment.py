import copy

import numpy as np
import pytest
import tiny
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.tinybert.models import alignment
from pipeline.tinybert.models.alignment import END, FIRST
from pipeline.tinybert.models.inference import encode
from pipeline.tinybert.models.piece_spans import TEXT

TOKENIZERS = {
    "bert": tiny.tokenizer(),
    "mpnet": tiny.shifted_tokenizer(),
    "roberta": tiny.byte_level_tokenizer(),
    "xlm-roberta": tiny.unigram_tokenizer(),
}
few = settings(max_examples=25, deadline=None)
PAIRS = [("bert", "xlm-roberta"), ("roberta", "bert"), ("xlm-roberta", "roberta"), ("bert", "mpnet")]
PARTS = [*"aeo tdh.,!'", "film", "good ", " unwatchable", "é", "ü", "😀", "東", "\u200b"]
text = st.lists(st.sampled_from(PARTS), min_size=1).map("".join)
words = st.lists(st.sampled_from(["film", "good", "unwatchable", "Ünïted", "😀", "a", "東京"]), min_size=1, max_size=9)


def of_kind(kind: str, max_length: int = 64):
    metric = {"text_classification": "accuracy"}.get(kind, "f1")
    labels = ["O", "B-film", "I-film"] if kind == "named_entities" else ["no", "yes"]
    return tiny.task(labels, metric, max_length, kind)


def weights_of(columns, lengths: list[int]) -> list[np.ndarray]:
    """(S, T) for each sequence."""
    made = []
    for first, end, length in zip(columns[FIRST], columns[END], lengths, strict=True):
        ranges = (torch.tensor([values]) for values in (first, end))
        made.append(alignment.overlap_weights(*ranges, length)[0].numpy())
    return made


@given(st.lists(st.integers(0, 3), min_size=1), st.lists(st.integers(1, 3), min_size=1))
def test_ranges_are_those_of_all_pieces_with_a_character_in_common(lengths, other_lengths):
    pieces, others = (
        np.stack([np.cumsum([0, *sizes])[:-1], np.cumsum(sizes)], axis=1) for sizes in (lengths, other_lengths)
    )
    for (start, end), (first, last) in zip(pieces, alignment.overlaps(pieces, others), strict=True):
        common = [n for n, (low, high) in enumerate(others) if max(start, low) < min(end, high)]
        if common:
            assert (first, last) == (common[0], common[-1] + 1)
        elif end > start:
            assert first == last


@pytest.mark.parametrize(("one", "other"), PAIRS)
@few
@given(text, st.none() | text)
@example("good film", "a film")
def test_each_piece_gets_the_mean_of_the_pieces_that_overlap_it_and_special_tokens_their_like(
    one, other, first, second
):
    row = {"text": first} if second is None else {"text": first, "pair": second}
    task, (one, other) = of_kind("text_classification"), (TOKENIZERS[name] for name in (one, other))
    own, theirs = encode(task, [row], one, with_spans=True), alignment.read_again(task, [row], one, other)
    ours, count = own["piece_spans"][0], len(theirs["input_ids"][0])
    [found] = weights_of(theirs, [len(ours)])
    assert found.shape == (len(ours), count)
    sums = found.sum(axis=1)
    assert np.all(np.isclose(sums, 1) | (sums == 0))
    assert np.allclose(
        found[found > 0], np.broadcast_to(1 / np.maximum((found > 0).sum(1), 1)[:, None], found.shape)[found > 0]
    )
    assert found[0, 0] == 1 and found[-1, -1] > 0  # class token and last separator
    # A piece of a text never gets what stands in the other text, or a special token.
    their_spans = encode(task, [row], other, with_spans=True)["piece_spans"][0]
    for (start, _), of_piece in zip(ours, found, strict=True):
        assert all(part(their_spans[place, 0]) == part(start) for place in np.flatnonzero(of_piece))


def part(start: int) -> tuple[int, bool]:
    """The text at or behind this place of the line, and whether the place is that of special tokens."""
    return (int(start) + 2) // TEXT, (int(start) + 2) % TEXT < 2


@few
@given(text)
def test_pieces_are_aligned_one_to_one_where_both_tokenizers_cut_alike(first):
    task, row = of_kind("text_classification"), {"text": first}
    theirs = alignment.read_again(task, [row], TOKENIZERS["bert"], TOKENIZERS["mpnet"])
    length = len(theirs["input_ids"][0])
    [found] = weights_of(theirs, [length])
    assert np.array_equal(found, np.eye(length))


def test_tokenizers_that_cut_alike_are_recognized():
    assert alignment.cut_alike(TOKENIZERS["bert"], TOKENIZERS["mpnet"])
    assert not alignment.cut_alike(TOKENIZERS["bert"], TOKENIZERS["xlm-roberta"])
    assert not alignment.reads_the_same(TOKENIZERS["bert"], TOKENIZERS["mpnet"])
    assert alignment.reads_the_same(TOKENIZERS["bert"], tiny.tokenizer())


@pytest.mark.parametrize(("one", "other"), PAIRS)
@few
@given(st.lists(words, min_size=1, max_size=3), st.sampled_from([8, 64]))
def test_a_word_gets_the_logits_of_the_same_word_or_none_if_the_other_model_does_not_read_it(one, other, rows, longest):
    task, (one, other) = of_kind("named_entities", longest), (TOKENIZERS[name] for name in (one, other))
    rows = [{"words": of_row} for of_row in rows]
    own, theirs = encode(task, rows, one), alignment.read_again(task, rows, one, other)
    for number in range(len(rows)):
        mask, their_mask = (torch.tensor([columns["label_mask"][number]]) for columns in (own, theirs))
        places = torch.where(their_mask, their_mask.cumsum(1) - 1, -1)  # at each word's begin: its number
        ranges = (torch.tensor([theirs[name][number]]) for name in (FIRST, END))
        found = task.align_logits(places.unsqueeze(-1).float(), their_mask, mask, *ranges)[mask][:, 0]
        read = min(int(mask.sum()), int(their_mask.sum()))
        assert found[:read].tolist() == list(range(read)) and found[read:].isnan().all()


@pytest.mark.parametrize(("one", "other"), PAIRS)
@few
@given(st.lists(words.map(" ".join), min_size=1, max_size=3), st.integers(0, 100))
@example(["good film"], 3)
@example(["film 😀 film"], 3)  # a byte-level window ends with the blank before an emoji, a piece without characters
def test_an_answer_s_start_and_end_are_found_by_characters(one, other, passages, draw):
    """In the piece of the student that holds the first (last) character of the teacher's piece; no mass is lost."""
    task, (one, other) = of_kind("question_answering", 32), (TOKENIZERS[name] for name in (one, other))
    rows = [{"question": "what is it", "passage": passage * 3} for passage in passages]
    own, theirs = encode(task, rows, one), alignment.read_again(task, rows, one, other)
    assert len(theirs["input_ids"]) == len(own["input_ids"])  # one for each window
    for number in range(len(own["input_ids"])):
        mask, their_mask = (torch.tensor([columns["label_mask"][number]]) for columns in (own, theirs))
        pieces = their_mask[0].nonzero()[:, 0].tolist()
        chosen = pieces[draw % len(pieces)]
        logits = torch.full((1, their_mask.size(1), 2), -100.0)
        logits[0, chosen] = 100
        first, end = (torch.tensor([theirs[name][number]]) for name in (FIRST, END))
        found = task.align_logits(logits, their_mask, mask, first, end)
        if found.isnan().all():  # the other model has read all that it can
            assert len(theirs["input_ids"][number]) == 64
            continue
        probability = found[0].exp()
        assert torch.allclose(probability[mask[0]].sum(0), torch.ones(2), atol=1e-3)
        low, high = int(first[0, chosen]), int(end[0, chosen])
        expected = (low, high - 1) if low < high and mask[0, low] else (0, 0)
        if low == high or all(mask[0, [low, high - 1]]):
            assert tuple(probability.argmax(0).tolist()) == expected


def test_a_window_that_the_other_model_has_not_read_to_its_end_has_no_logits():
    task = of_kind("question_answering", 32)
    ones, mask = torch.ones(1, 4, 2), torch.tensor([[True, False, True, True]])
    first, end = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[1, 2, 3, 4]])
    assert not task.align_logits(ones, mask, mask, first, end).isnan().any()
    longer = torch.tensor([[True, False, True, True, True, True]])  # one more piece may have no characters
    assert task.align_logits(ones, mask, longer, first, end).isnan().all()


def test_the_task_of_the_student_stays_as_it_is_for_a_second_reader():
    task = of_kind("question_answering", 40)
    before = copy.copy(vars(task))
    assert task.second_reader(TOKENIZERS["xlm-roberta"]).max_length == 64
    assert vars(task) == before
