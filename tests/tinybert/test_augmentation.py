import copy
import re

import numpy as np
import pytest
import tiny
import torch
from gensim.models import KeyedVectors
from gensim.parsing.preprocessing import STOPWORDS
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tinybert import augmentation, models
from pipeline.tinybert.augmentation import Augmenter, in_the_case_of, nearest_words
from pipeline.tinybert.settings import Augment
from pipeline.tinybert.tasks.task import spliced

ROWS = [{"id": f"train-{n}", "text": text, "label": label} for n, (text, label) in enumerate(tiny.sentences(24, 5))]
LONG = " ".join(tiny.NOUNS * 12)  # 120 word-pieces, where the tiny model takes 64
CONTENT = [*tiny.NOUNS, *tiny.ADJECTIVES["positive"], *tiny.RARE.split(), "zebra"]
quick = settings(max_examples=25, deadline=None)

glue = st.text(st.sampled_from(" \n\t\"'`.,;:!?()-…“”«é電\u3000\x85"), max_size=4)
chunks = st.one_of(
    st.sampled_from([*CONTENT, "Film", "MOVIE", "the", "is", "won't", "gonna", '"', "''", "``", "e.g.", "1990s"]),
    st.text(max_size=5),
)
texts = st.lists(st.tuples(chunks, glue)).map(lambda pairs: "".join(part for pair in pairs for part in pair))


def vectors_of(words: list[str], seed: int = 0) -> KeyedVectors:
    keyed = KeyedVectors(8)
    keyed.add_vectors(words, np.random.default_rng(seed).normal(size=(len(words), 8)).astype(np.float32))
    return keyed


MODEL = tiny.masked_language_model()
VECTORS = vectors_of([*tiny.WORDS, *tiny.RARE.split()])


def augmenter(model=MODEL, vectors=VECTORS, tokenizer=None, task=None, stop=STOPWORDS, **changes) -> Augmenter:
    values = {
        "seed": 1,
        "variants": 5,
        "candidates": 4,
        "probability": 0.4,
        "masked_at_once": 3,
        "batch_size": 5,
        "entities": False,
    }
    task = task or tiny.task(["negative", "positive"])
    return Augmenter(task, model, tokenizer or tiny.tokenizer(), vectors, stop, Augment(**{**values, **changes}))


def of_text(text: str, **changes) -> list[str]:
    return [row["text"] for row in augmenter(**changes)([{"id": "train-0", "text": text, "label": "positive"}])]


def words_of(text: str, spans=None, **changes) -> dict:
    """The replaceable words of a text, with their candidates."""
    maker = augmenter(**changes)
    maker.read({text})
    return {word.text: word for word in maker.sentences[text].within(spans or [(0, len(text))]).words}


@pytest.fixture
def forwards(monkeypatch):
    """The size of each batch that the masked language model sees."""
    seen, plain = [], models.word_logits
    monkeypatch.setattr(
        models, "word_logits", lambda model, inputs, at: seen.append(len(at)) or plain(model, inputs, at)
    )
    return seen


@pytest.mark.parametrize("batch_size", [1, 2, 7, 1000])
def test_variants_are_the_same_for_any_batch_size(batch_size, forwards):
    expected = list(augmenter(batch_size=5)(ROWS))
    forwards.clear()
    assert list(augmenter(batch_size=batch_size)(ROWS)) == expected
    assert max(forwards) <= batch_size


@pytest.mark.parametrize("rows_at_once", [1, 5, 23])
def test_variants_are_the_same_for_any_block_of_rows(rows_at_once, monkeypatch):
    expected = list(augmenter()(ROWS))
    monkeypatch.setattr(augmentation, "ROWS_AT_ONCE", rows_at_once)
    assert list(augmenter()(ROWS)) == expected


@pytest.fixture(scope="module")
def variants_of():
    """Row id → the row and its variants, made together with all others."""
    found = {}
    for row in augmenter()(ROWS):
        found.setdefault(row["id"], []).append(row)
    return found


@quick
@given(some=st.lists(st.sampled_from(ROWS), unique_by=lambda row: row["id"]))
def test_variants_of_a_row_do_not_depend_on_the_other_rows(variants_of, some):
    assert list(augmenter()(some)) == [variant for row in some for variant in variants_of[row["id"]]]


def test_the_draw_depends_on_the_seed_and_the_row_id():
    text, label = ROWS[0]["text"], ROWS[0]["label"]
    first, other = ({"id": f"train-{number}", "text": text, "label": label} for number in range(2))
    drawn = {
        tuple(row["text"] for row in augmenter(seed=seed)([row])) for seed, row in [(1, first), (1, other), (2, first)]
    }
    assert len(drawn) == 3


def test_logits_too_close_to_call_are_decided_as_in_any_other_batch(monkeypatch):
    """Sums that differ in their last digits with the batch size must not choose between two words."""
    model = copy.deepcopy(MODEL)
    with torch.no_grad():
        head = model.cls.predictions.decoder
        head.weight[len(tiny.SPECIAL) :] = head.weight[len(tiny.SPECIAL)]  # every word is as likely as every other
        head.bias.zero_()
    plain = models.word_logits

    def noisy(model, inputs, positions):
        logits = plain(model, inputs, positions)
        return logits + 1e-6 * torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(len(positions)))

    monkeypatch.setattr(models, "word_logits", noisy)
    one, other, whole = (list(augmenter(model, batch_size=size)(ROWS)) for size in (1, 4, 100))
    assert one == other == whole


@pytest.mark.parametrize("probability", [0.1, 0.4, 0.9])
def test_the_share_of_replaced_words_is_near_the_probability(probability):
    nouns = tiny.NOUNS * 3
    rows = [{"id": f"train-{number}", "text": " ".join(nouns), "label": "positive"} for number in range(20)]
    made = [row["text"].split() for row in augmenter(probability=probability)(rows) if row["variant"]]
    replaced = sum(new != old for text in made for new, old in zip(text, nouns, strict=True))
    count = len(made) * len(nouns)
    assert count > 2500
    assert abs(replaced - probability * count) < 4 * (count * probability * (1 - probability)) ** 0.5


def test_candidates_are_drawn_evenly():
    candidates = words_of("film", candidates=4)["film"].candidates
    rows = [{"id": str(number), "text": "film", "label": "positive"} for number in range(800)]
    made = [row["text"] for row in augmenter(variants=1, probability=1)(rows) if row["variant"]]
    counts = [made.count(candidate) for candidate in candidates]
    assert len(candidates) == 4 and sum(counts) == 800
    assert sum((count - 200) ** 2 / 200 for count in counts) < 16.3  # chi-square of 3 degrees, 99.9 %


@quick
@given(texts)
def test_only_letters_that_are_no_stop_words_change_and_all_else_stays_to_the_character(text):
    made = of_text(text, probability=1, variants=2)
    assert made[0] == text
    # The rest of the text, as a pattern: words of letters may change, nothing else.
    pattern = re.compile(
        "".join(
            re.escape(part) if part.lower() in STOPWORDS else r"[^\W\d_]+" if part.isalpha() else re.escape(part)
            for part in re.split(r"([^\W\d_]+)", text)
        )
    )
    for variant in made[1:]:
        assert pattern.fullmatch(variant)


def test_spacing_quotes_and_punctuation_around_the_words_stay():
    text = "  \"The  Film\"\n\twas  (really) GOOD -- café\u00a0電影 won't “dull” , isn't it?\r\n"
    made = of_text(text, probability=1, variants=8)
    kept = re.compile(
        r'  "The  [A-Z][a-z]+"\n\twas  \(really\) [A-Z]+ -- café\u00a0電影 won\'t “[a-z]+” , isn\'t it\?\r\n'
    )
    assert len(made) > 5
    assert all(kept.fullmatch(variant) for variant in made)


@pytest.mark.parametrize(
    "quotes",
    [('"', '"'), ("''", "''"), ("``", "''"), ('"', "''"), ("``", '"'), ("'' ``", '"'), ('"``', "''\""), ('`` "', "``")],
)
def test_words_between_any_quotes_are_found(quotes):
    opening, closing = quotes
    text = f"a {opening}film{closing} {opening} story {closing} and plot.{closing}"
    assert list(words_of(text)) == ["film", "story", "plot"]


def test_nltk_sees_no_quotes_that_it_would_rewrite_and_not_find_again(monkeypatch):
    seen, plain = [], augmentation.NLTKWordTokenizer.span_tokenize
    monkeypatch.setattr(
        augmentation.NLTKWordTokenizer, "span_tokenize", lambda self, text: seen.append(text) or plain(self, text)
    )
    words_of("a \"film\" ``plot'' it's")
    assert seen == ["a  film    plot   it's"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The film is very GOOD .", ["film", "GOOD"]),
        ("A film. A plot! A cast?", ["film", "plot", "cast"]),
        ("won't gonna cannot ain't can't", []),
        ("film's director's", ["film", "director"]),
        ("well-made 3D film2 e.g. café", ["café"]),
    ],
)
def test_whole_words_of_letters_that_are_no_stop_words_may_be_replaced(text, expected):
    assert list(words_of(text)) == expected


def test_stop_words_are_those_of_the_language():
    assert list(words_of("The Film und the plot", stop={"film", "plot"})) == ["The", "und", "the"]


def test_a_text_of_many_rows_is_asked_about_once(forwards, monkeypatch):
    """As a passage that many questions ask of, across blocks of rows too."""
    monkeypatch.setattr(augmentation, "ROWS_AT_ONCE", 2)
    passage = "the film is good and the cast is lovely"
    questions = [f"is the {noun} good" for noun in tiny.NOUNS]
    rows = [{"id": str(n), "first": passage, "second": question} for n, question in enumerate(questions)]
    list(augmenter(task=Pair(), batch_size=1, masked_at_once=1)(rows))
    words_of_a_question = 2
    assert len(forwards) == len(words_of(passage)) + words_of_a_question * len(questions)


def test_words_outside_the_given_spans_stay():
    assert list(words_of("film plot cast story", spans=[(0, 4), (9, 14)])) == ["film", "cast"]


@pytest.mark.parametrize("text", ["", " ", "film", "unwatchable", "zebra", "the", "...", '"', "!?", "\n", "1990"])
def test_texts_of_one_word_or_none_give_themselves_and_no_copy(text):
    made = of_text(text, probability=1)
    assert made[0] == text
    assert len(made) == len(set(made))
    assert (len(made) > 1) == (text in ("film", "unwatchable"))


@pytest.mark.parametrize(
    ("original", "word", "expected"),
    [
        ("film", "movie", "movie"),
        ("Film", "movie", "Movie"),
        ("FILM", "movie", "MOVIE"),
        ("X", "movie", "Movie"),
        ("film", "Paris", "Paris"),
        ("Film", "mcQueen", "McQueen"),
        ("Élan", "été", "Été"),
    ],
)
def test_a_replacement_takes_the_case_of_the_word(original, word, expected):
    assert in_the_case_of(original, word) == expected


@quick
@given(st.text(max_size=30), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.text(max_size=4))))
def test_splicing_undone_gives_the_text_back(text, cuts):
    bounds = sorted({min(place, len(text)) for start, end, _ in cuts for place in (start, end)})
    spans = list(zip(bounds[::2], bounds[1::2], strict=False))
    cut = [(start, end, f"<{number}>") for number, (start, end) in enumerate(spans)]
    made = spliced(text.replace("<", "("), cut)
    for start, end, mark in cut:
        made = made.replace(mark, text.replace("<", "(")[start:end], 1)
    assert made == text.replace("<", "(")


@quick
@given(texts)
def test_variants_are_new_and_come_after_the_original(text):
    row = {"id": "train-0", "text": text, "label": "negative", "note": "kept"}
    before = copy.deepcopy(row)
    original, *variants = augmenter(variants=4)([row])
    assert row == before
    assert original == {**row, "variant": 0}
    assert len({made["text"] for made in [original, *variants]}) == 1 + len(variants) <= 5
    for variant in variants:
        assert {**variant, "text": text, "variant": 0} == original
    assert [made["variant"] for made in variants] == sorted({made["variant"] for made in variants})


def test_no_variants_asked_for_give_the_originals_and_ask_no_model(forwards):
    assert list(augmenter(variants=0)(ROWS)) == [{**row, "variant": 0} for row in ROWS]
    assert forwards == []


class Pair:
    """A task of two texts, of the second of which only the first four characters may change."""

    def replaceable(self, row):
        return {"first": (row["first"], [(0, len(row["first"]))]), "second": (row["second"], [(0, 4)])}

    def replaced(self, row, field, edits):
        return {**row, field: spliced(row[field], edits)}


def test_a_variant_of_a_pair_changes_one_text_of_one_copy():
    row = {"id": "train-0", "first": "film plot cast story", "second": "film scene plot"}
    _, *variants = augmenter(task=Pair(), variants=10, probability=1)([row])
    changed = [[name for name in ("first", "second") if variant[name] != row[name]] for variant in variants]
    assert {tuple(names) for names in changed} == {("first",), ("second",)}
    assert all(variant["second"].endswith(" scene plot") for variant in variants)


@quick
@given(st.lists(st.sampled_from([*CONTENT, "Film", "MOVIE", "the"]), max_size=12), st.integers(1, 60))
def test_candidates_are_other_whole_words_and_not_more_than_asked_for(words, count):
    whole = {word for word in tiny.tokenizer().get_vocab() if word.isalpha()}
    for text, word in words_of(" ".join(words), candidates=count).items():
        assert len(word.candidates) == len(set(word.candidates)) == min(count, len(word.candidates))
        assert text.lower() not in word.candidates
        assert set(word.candidates) <= whole | set(VECTORS.index_to_key)


def test_the_masked_language_model_proposes_every_other_whole_word_if_asked_for_more():
    whole = {word for word in tiny.tokenizer().get_vocab() if word.isalpha()}
    assert set(words_of("Film", candidates=1000)["Film"].candidates) == whole - {"film"}


def test_other_spellings_of_the_word_itself_are_no_candidates():
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


def test_neighbours_in_other_case_are_the_word_itself():
    assert nearest_words(vectors_of(["film", "Film", "plot"]), ["film"], 5) == {"film": ["plot"]}


def test_words_of_one_piece_go_to_the_model_and_the_others_to_glove(monkeypatch):
    asked = {"model": [], "glove": []}
    ask_model, ask_vectors = Augmenter.ask_model, Augmenter.ask_vectors

    def to_model(self, batch):
        asked["model"] += [word.text for forward in batch for word in forward.words.values()]
        ask_model(self, batch)

    def to_glove(self, words):
        asked["glove"] += [word.text for word in words]
        ask_vectors(self, words)

    monkeypatch.setattr(Augmenter, "ask_model", to_model)
    monkeypatch.setattr(Augmenter, "ask_vectors", to_glove)
    words = words_of("The film is Unwatchable , a good plot , zebra")
    assert set(asked["model"]) == {"film", "good", "plot"}
    assert asked["glove"] == ["Unwatchable", "zebra"]
    assert words["Unwatchable"].candidates == nearest_words(VECTORS, ["unwatchable"], 4)["unwatchable"]


def test_a_word_that_glove_does_not_know_stays():
    for text in of_text("watchable film zebra", probability=1, vectors=vectors_of(["film", "plot"])):
        assert re.fullmatch("watchable [a-z]+ zebra", text)


@torch.no_grad()
def plain_candidates(text: str, word: str, count: int) -> set[str]:
    """The model's best words for one masked word of the whole sentence, by the full logits."""
    tokenizer = tiny.tokenizer()
    encoded = tokenizer(text.replace(word, tokenizer.mask_token), return_tensors="pt")
    place = encoded["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    order = MODEL(**encoded).logits[0, place].argsort(descending=True)
    pieces = [piece for piece in tokenizer.convert_ids_to_tokens(order) if piece.isalpha() and piece != word]
    return set(pieces[:count])


def test_one_mask_at_a_time_gives_what_one_forward_for_each_word_gives():
    text = "the film is very good , with a boring plot and an unwatchable scene !"
    words = words_of(text, masked_at_once=1, candidates=6, batch_size=3)
    for word in ("film", "good", "boring", "plot", "scene"):
        assert set(words[word].candidates) == plain_candidates(text, word, 6)


@pytest.mark.parametrize(("masked_at_once", "expected"), [(1, 7), (2, 4), (3, 3), (7, 1), (50, 1)])
def test_each_word_is_masked_once_with_not_too_many_others(masked_at_once, expected):
    maker = augmenter(masked_at_once=masked_at_once)
    text = "film movie story plot cast scene script"
    masked = list(maker.masked_forwards(maker.sentence(text)))
    assert len(masked) == expected
    assert sorted(word.text for forward in masked for word in forward.words.values()) == sorted(text.split())
    for forward in masked:
        assert len(forward.words) <= masked_at_once
        marked = [place for place, piece in enumerate(forward.pieces) if piece == tiny.tokenizer().mask_token_id]
        assert marked == sorted(forward.words)


@pytest.mark.parametrize("masked_at_once", [1, 3])
def test_a_text_longer_than_the_model_takes_is_cut_to_a_window_around_each_masked_word(masked_at_once):
    maker = augmenter(masked_at_once=masked_at_once)
    sentence = maker.sentence(LONG)
    masked = list(maker.masked_forwards(sentence))
    assert len(masked) == 120
    for number, forward in enumerate(masked):
        assert len(forward.pieces) == 64
        [(place, word)] = forward.words.items()
        assert word is sentence.words[number]
        assert forward.pieces[place] == tiny.tokenizer().mask_token_id
        before, after = number, 119 - number
        assert place - 1 >= min(before, 30) and 62 - place >= min(after, 30)


def test_all_words_of_a_long_text_may_change():
    made = of_text(LONG + " unwatchable.", probability=1, variants=1)[1]
    assert all(new != old for new, old in zip(made.rstrip(".").split(), [*LONG.split(), "unwatchable"], strict=True))


def test_the_head_runs_at_masked_positions_only():
    rows = []
    handle = MODEL.cls.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    words_of("the film is very good , with a plot", masked_at_once=1, batch_size=2)
    handle.remove()
    assert rows == [2, 1]


def test_candidates_are_found_without_gradient_and_in_evaluation_mode():
    model = tiny.masked_language_model().train()
    seen = []
    model.cls.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    list(augmenter(model)(ROWS[:3]))
    assert seen and not any(seen)
    assert not any(part.training for part in model.modules())
    assert all(weights.grad is None for weights in model.parameters())


def test_a_model_whose_vocabulary_is_padded_beyond_the_tokenizers_works():
    torch.manual_seed(0)
    model = tiny.masked_language_model()
    model.resize_token_embeddings(len(tiny.tokenizer()) + 8)
    assert len(words_of("film", model=model, candidates=1000)["film"].candidates) > 40


def test_neighbours_are_those_of_gensim():
    vectors = vectors_of([f"word{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(300)])
    found = nearest_words(vectors, vectors.index_to_key, 15, at_once=7)
    assert all(set(near) == {other for other, _ in vectors.most_similar(word, topn=15)} for word, near in found.items())


def test_neighbours_do_not_depend_on_the_words_asked_for_together():
    """Twins are as near as each other; the more frequent one is taken, whatever the last digits of the sums say."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(400, 8)).astype(np.float32)
    words = [f"{twin}{chr(97 + n // 26)}{chr(97 + n % 26)}" for twin in "xy" for n in range(400)]
    vectors = KeyedVectors(8)
    vectors.add_vectors(words, np.concatenate([half, half * 3]))
    together = nearest_words(vectors, words, 4)
    alone = {word: nearest_words(vectors, [word], 4)[word] for word in words[:60]}
    assert {word: together[word] for word in alone} == alone


@pytest.mark.parametrize(("words", "count"), [(["film", "plot"], 5), (["film"], 1)])
def test_few_vectors_give_few_neighbours(words, count):
    assert nearest_words(vectors_of(words), ["film", "unknown"], count) == {"film": words[1:], "unknown": []}


def test_neighbours_are_computed_once_for_each_distinct_word(monkeypatch):
    asked, plain = [], augmentation.nearest_words

    def watched(vectors, words, count):
        asked.extend(words)
        return plain(vectors, words, count)

    monkeypatch.setattr(augmentation, "nearest_words", watched)
    monkeypatch.setattr(augmentation, "ROWS_AT_ONCE", 2)
    rows = [{"id": str(n), "text": "Unwatchable heartwarming unwatchable", "label": "x"} for n in range(6)]
    list(augmenter()(rows))
    assert sorted(asked) == ["heartwarming", "unwatchable"]


def test_blocks_hold_fewer_rows_where_they_are_long(monkeypatch):
    monkeypatch.setattr(augmentation, "ROWS_AT_ONCE", 10)
    assert [count for count, _ in augmenter().in_blocks(ROWS)] == [10, 10, 4]
    monkeypatch.setattr(augmentation, "CHARACTERS_AT_ONCE", 1)
    assert [count for count, _ in augmenter().in_blocks(ROWS)] == [1] * 24
