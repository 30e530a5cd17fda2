import copy
import re

import numpy as np
import pytest
import tiny
import torch
from gensim.models import KeyedVectors
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_augmenter import CONTENT, LONG, MODEL, ROWS, VECTORS, augmenter, of_text, vectors_of, words_of

from pipeline.tinybert.augmentation import candidates, word_replacement
from pipeline.tinybert.augmentation.candidates import Candidates, count_forwards, nearest_words
from pipeline.tinybert.models.families import word_logits
from pipeline.tinybert.tasks.task import splice


class ReadsAll:
    """A task that reads texts of any length, in windows."""

    pieces_read = None

    def replaceable_spans(self, row):
        return {"text": (row["text"], [(0, len(row["text"]))])}

    def apply_edits(self, row, field, edits):
        return {**row, field: splice(row[field], edits)}


READS_ALL = ReadsAll()
quick = settings(max_examples=25, deadline=None)


def test_close_logits_give_the_same_candidates_in_any_batch(monkeypatch):
    """Rounding differences between batch sizes must not decide between two words."""
    model = copy.deepcopy(MODEL)
    with torch.no_grad():
        head = model.cls.predictions.decoder
        head.weight[len(tiny.SPECIAL) :] = head.weight[len(tiny.SPECIAL)]  # all words are equally likely
        head.bias.zero_()
    plain = word_logits

    def noisy(model, inputs, positions):
        logits = plain(model, inputs, positions)
        return logits + 1e-6 * torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(len(positions)))

    monkeypatch.setattr(candidates, "word_logits", noisy)
    of_1, of_4, of_100 = (list(augmenter(model, batch_size=size)(ROWS)) for size in (1, 4, 100))
    assert of_1 == of_4 == of_100


@quick
@given(st.lists(st.sampled_from([*CONTENT, "Film", "MOVIE", "the"]), max_size=12), st.integers(1, 60))
def test_candidates_are_at_most_k_distinct_whole_words_other_than_the_word(words, count):
    whole = {word for word in tiny.tokenizer().get_vocab() if word.isalpha()}
    for text, word in words_of(" ".join(words), candidates=count).items():
        assert len(word.candidates) == len(set(word.candidates)) == min(count, len(word.candidates))
        assert text.lower() not in word.candidates
        assert set(word.candidates) <= whole | set(VECTORS.index_to_key)


def test_a_large_k_gives_every_other_whole_word_of_the_vocabulary():
    whole = {word for word in tiny.tokenizer().get_vocab() if word.isalpha()}
    assert set(words_of("Film", candidates=1000)["Film"].candidates) == whole - {"film"}


def test_other_spellings_of_the_word_are_not_candidates():
    vocabulary = [*tiny.SPECIAL, "film", "Film", "FILM", "plot", "cafe", "##s", "1990", "[unused0]", "don"]
    cased = type(tiny.tokenizer())(
        vocab={piece: number for number, piece in enumerate(vocabulary)},
        do_lower_case=False,
        strip_accents=True,
        model_max_length=64,
    )
    proposed = words_of("film Film café", tokenizer=cased, candidates=100)
    assert set(proposed["film"].candidates) == set(proposed["Film"].candidates) == {"plot", "cafe", "don"}
    assert set(proposed["café"].candidates) == {"film", "Film", "FILM", "plot", "don"}


def test_a_neighbour_that_differs_only_in_case_is_excluded():
    assert nearest_words(vectors_of(["film", "Film", "plot"]), ["film"], 5) == {"film": ["plot"]}


def test_single_piece_words_use_the_model_and_other_words_use_glove(monkeypatch):
    asked = {"model": [], "glove": []}
    find_by_model, find_by_vectors = Candidates.find_by_model, Candidates.find_by_vectors

    def to_model(self, batch):
        asked["model"] += [word.text for forward in batch for word in forward.words.values()]
        find_by_model(self, batch)

    def to_glove(self, words):
        asked["glove"] += [word.text for word in words]
        find_by_vectors(self, words)

    monkeypatch.setattr(Candidates, "find_by_model", to_model)
    monkeypatch.setattr(Candidates, "find_by_vectors", to_glove)
    words = words_of("The film is Unwatchable , a good plot , zebra")
    assert set(asked["model"]) == {"film", "good", "plot"}
    assert asked["glove"] == ["Unwatchable", "zebra"]
    assert words["Unwatchable"].candidates == nearest_words(VECTORS, ["unwatchable"], 4)["unwatchable"]


def test_a_multi_piece_word_without_a_vector_is_not_replaced():
    for text in of_text("watchable film zebra", probability=1, vectors=vectors_of(["film", "plot"])):
        assert re.fullmatch("watchable [a-z]+ zebra", text)


def plain_candidates(text: str, word: str, count: int) -> set[str]:
    """The reference: mask ``word`` alone in the whole sentence and rank the full vocabulary's logits."""
    tokenizer = tiny.tokenizer()
    encoded = tokenizer(text.replace(word, tokenizer.mask_token), return_tensors="pt")
    position = encoded["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    order = MODEL(**encoded).logits[0, position].argsort(descending=True)
    pieces = [piece for piece in tokenizer.convert_ids_to_tokens(order) if piece.isalpha() and piece != word]
    return set(pieces[:count])


def test_masking_one_word_at_a_time_equals_a_separate_forward_for_each_word():
    text = "the film is very good , with a boring plot and an unwatchable scene !"
    words = words_of(text, masked_at_once=1, candidates=6, batch_size=3)
    for word in ("film", "good", "boring", "plot", "scene"):
        assert set(words[word].candidates) == plain_candidates(text, word, 6)


@pytest.mark.parametrize(("masked_at_once", "expected"), [(1, 7), (2, 4), (3, 3), (7, 1), (50, 1)])
def test_each_word_is_masked_once_with_at_most_masked_at_once_per_forward(masked_at_once, expected):
    maker = augmenter(masked_at_once=masked_at_once)
    text = "film movie story plot cast scene script"
    masked = list(maker.candidates.masked_forwards(maker.sentence(text)))
    assert len(masked) == expected
    assert sorted(word.text for forward in masked for word in forward.words.values()) == sorted(text.split())
    for forward in masked:
        assert len(forward.words) <= masked_at_once
        marked = [position for position, piece in enumerate(forward.pieces) if piece == tiny.tokenizer().mask_token_id]
        assert marked == sorted(forward.words)


@pytest.mark.parametrize(("window", "forwards"), [(31, 7), (30, 4), (20, 3), (15, 2)])
def test_a_long_text_has_so_many_words_masked_for_each_window(monkeypatch, window, forwards):
    monkeypatch.setattr(candidates, "LONG", 61)
    monkeypatch.setattr(candidates, "WINDOW", window)
    maker = augmenter(masked_at_once=9, task=READS_ALL)
    masked = list(maker.candidates.masked_forwards(maker.sentence(" ".join(tiny.NOUNS * 6 + ["film"]))))
    assert len(masked) == forwards
    assert sum(len(forward.words) for forward in masked) == 61
    assert all(len(forward.pieces) == 63 for forward in masked)
    monkeypatch.setattr(candidates, "LONG", 62)
    assert len(list(maker.candidates.masked_forwards(maker.sentence(" ".join(tiny.NOUNS * 6 + ["film"]))))) == 7


def test_one_forward_is_enough_for_a_review_of_which_a_third_is_replaceable():
    assert count_forwards(pieces=240, words=78, masked_at_once=3) == 1
    assert count_forwards(pieces=240, words=79, masked_at_once=3) == 2
    assert count_forwards(pieces=79, words=26, masked_at_once=3) == 9  # not a long text


def test_on_a_cpu_only_short_texts_share_a_batch():
    masked = [candidates.Masked([0] * length, {}) for length in (5, 90, 5, 90, 6)]
    sizes = [len(batch) for batch in candidates._equal_length_batches(masked, 64, alone_from=80)]
    assert sizes == [1, 1, 3]
    assert [len(batch) for batch in candidates._equal_length_batches(masked, 64)] == [2, 3]


@pytest.mark.parametrize("masked_at_once", [1, 3])
def test_a_text_beyond_the_maximum_length_is_read_in_windows_with_context_around_each_word(masked_at_once):
    maker = augmenter(masked_at_once=masked_at_once, task=READS_ALL)
    sentence = maker.sentence(LONG)
    masked = list(maker.candidates.masked_forwards(sentence))
    assert len(masked) <= -(-len(sentence.words) // masked_at_once) + 3
    number_of = {id(word): number for number, word in enumerate(sentence.words)}
    found = []
    for forward in masked:
        assert len(forward.pieces) == 64 and len(forward.words) <= masked_at_once
        for position, word in forward.words.items():
            assert forward.pieces[position] == tiny.tokenizer().mask_token_id
            found.append(number_of[id(word)])
            before, after = found[-1], 119 - found[-1]
            assert position - 1 >= min(before, 15) and 62 - position >= min(after, 15)
    assert sorted(found) == list(range(120))


def test_words_beyond_the_maximum_length_are_replaced_if_the_task_reads_them():
    made = of_text(LONG + " unwatchable.", probability=1, variants=1, task=READS_ALL)[1]
    assert all(new != old for new, old in zip(made.rstrip(".").split(), [*LONG.split(), "unwatchable"], strict=True))


def test_the_head_computes_logits_at_masked_positions_only():
    rows = []
    handle = MODEL.cls.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    words_of("the film is very good , with a plot", masked_at_once=1, batch_size=2)
    handle.remove()
    assert rows == [2, 1]


def test_the_model_runs_in_evaluation_mode_without_gradients_and_the_callers_is_unchanged():
    model = tiny.masked_language_model().train()
    seen = []
    for part in model.modules():
        part.register_forward_hook(lambda module, inputs, output: seen.append(module.training))
    model.cls.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    list(augmenter(model)(ROWS[:3]))
    assert seen and not any(seen) and model.training


def test_a_model_with_more_embeddings_than_the_tokenizer_has_pieces_works():
    torch.manual_seed(0)
    model = tiny.masked_language_model()
    model.resize_token_embeddings(len(tiny.tokenizer()) + 8)
    assert len(words_of("film", model=model, candidates=1000)["film"].candidates) > 40


def test_neighbours_equal_gensims():
    vectors = vectors_of([f"word{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(300)])
    found = nearest_words(vectors, vectors.index_to_key, 15, chunk_size=7)
    assert all(set(near) == {other for other, _ in vectors.most_similar(word, topn=15)} for word, near in found.items())


def test_neighbours_do_not_depend_on_which_words_are_looked_up_together():
    """Of two words with equal cosines the more frequent one is chosen, whatever the rounding."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(400, 8)).astype(np.float32)
    words = [f"{twin}{chr(97 + n // 26)}{chr(97 + n % 26)}" for twin in "xy" for n in range(400)]
    vectors = KeyedVectors(8)
    vectors.add_vectors(words, np.concatenate([half, half * 3]))
    together = nearest_words(vectors, words, 4)
    alone = {word: nearest_words(vectors, [word], 4)[word] for word in words[:60]}
    assert {word: together[word] for word in alone} == alone


@pytest.mark.parametrize(("words", "count"), [(["film", "plot"], 5), (["film"], 1)])
def test_fewer_vectors_than_k_give_fewer_neighbours(words, count):
    assert nearest_words(vectors_of(words), ["film", "unknown"], count) == {"film": words[1:], "unknown": []}


def test_each_distinct_word_is_looked_up_once(monkeypatch):
    asked, plain = [], candidates.nearest_words

    def watched(vectors, words, count):
        asked.extend(words)
        return plain(vectors, words, count)

    monkeypatch.setattr(candidates, "nearest_words", watched)
    monkeypatch.setattr(word_replacement, "BLOCK_ROWS", 2)
    rows = [{"id": str(n), "text": "Unwatchable heartwarming unwatchable", "label": "x"} for n in range(6)]
    list(augmenter()(rows))
    assert sorted(asked) == ["heartwarming", "unwatchable"]
