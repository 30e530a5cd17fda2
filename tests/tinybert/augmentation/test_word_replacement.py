import copy
import re

import pytest
import tiny
import torch
from gensim.parsing.preprocessing import STOPWORDS
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize import NLTKWordTokenizer
from tiny_augmenter import CONTENT, LONG, ROWS, augmenter, of_text, vectors_of, words_of

from pipeline.tinybert.augmentation import candidates, word_replacement
from pipeline.tinybert.augmentation.word_replacement import match_case
from pipeline.tinybert.models.families import word_logits
from pipeline.tinybert.tasks.task import splice

quick = settings(max_examples=25, deadline=None)

glue = st.text(st.sampled_from(" \n\t\"'`.,;:!?()-…“”«é電\u3000\x85"), max_size=4)
chunks = st.one_of(
    st.sampled_from([*CONTENT, "Film", "MOVIE", "the", "is", "won't", "gonna", '"', "''", "``", "e.g.", "1990s"]),
    st.text(max_size=5),
)
texts = st.lists(st.tuples(chunks, glue)).map(lambda pairs: "".join(part for pair in pairs for part in pair))


@pytest.fixture
def forwards(monkeypatch):
    """The batch size of each forward of the masked language model."""
    seen, plain = [], word_logits
    monkeypatch.setattr(
        candidates,
        "word_logits",
        lambda model, inputs, positions: seen.append(len(positions)) or plain(model, inputs, positions),
    )
    return seen


@pytest.mark.parametrize("batch_size", [1, 2, 7, 1000])
def test_variants_are_the_same_for_any_batch_size(batch_size, forwards):
    expected = list(augmenter(batch_size=5)(ROWS))
    forwards.clear()
    assert list(augmenter(batch_size=batch_size)(ROWS)) == expected
    assert max(forwards) <= batch_size


@pytest.mark.parametrize("block_rows", [1, 5, 23])
def test_variants_are_the_same_for_any_block_of_rows(block_rows, monkeypatch):
    expected = list(augmenter()(ROWS))
    monkeypatch.setattr(word_replacement, "BLOCK_ROWS", block_rows)
    assert list(augmenter()(ROWS)) == expected


@pytest.fixture(scope="module")
def variants_of():
    """Row id → the row and its variants, from a run over all rows."""
    variants = {}
    for row in augmenter()(ROWS):
        variants.setdefault(row["id"], []).append(row)
    return variants


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


@pytest.mark.parametrize("probability", [0.1, 0.4, 0.9])
def test_the_share_of_replaced_words_is_near_the_probability(probability):
    nouns = tiny.NOUNS * 3
    rows = [{"id": f"train-{number}", "text": " ".join(nouns), "label": "positive"} for number in range(20)]
    made = [row["text"].split() for row in augmenter(probability=probability)(rows) if row["variant"]]
    replaced = sum(new != old for text in made for new, old in zip(text, nouns, strict=True))
    count = len(made) * len(nouns)
    assert count > 2500
    assert abs(replaced - probability * count) < 4 * (count * probability * (1 - probability)) ** 0.5


def test_candidates_are_drawn_uniformly():
    candidates = words_of("film", candidates=4)["film"].candidates
    rows = [{"id": str(number), "text": "film", "label": "positive"} for number in range(800)]
    made = [row["text"] for row in augmenter(variants=1, probability=1)(rows) if row["variant"]]
    counts = [made.count(candidate) for candidate in candidates]
    assert len(candidates) == 4 and sum(counts) == 800
    assert sum((count - 200) ** 2 / 200 for count in counts) < 16.3  # chi-square of 3 degrees, 99.9 %


@quick
@given(texts)
def test_only_words_of_letters_that_are_not_stop_words_change(text):
    made = of_text(text, probability=1, variants=2)
    assert made[0] == text
    # A pattern of the text: words of letters may change, everything else must stay the same.
    pattern = re.compile(
        "".join(
            re.escape(part) if part.lower() in STOPWORDS else r"[^\W\d_]+" if part.isalpha() else re.escape(part)
            for part in re.split(r"([^\W\d_]+)", text)
        )
    )
    for variant in made[1:]:
        assert pattern.fullmatch(variant)


def test_spacing_quotes_and_punctuation_are_preserved():
    text = "  \"The  Film\"\n\twas  (really) GOOD -- café\u00a0電影 won't “dull” , isn't it?\r\n"
    made = of_text(text, probability=1, variants=8)
    expected = re.compile(
        r'  "The  [A-Z][a-z]+"\n\twas  \(really\) [A-Z]+ -- café\u00a0電影 won\'t “[a-z]+” , isn\'t it\?\r\n'
    )
    assert len(made) > 5
    assert all(expected.fullmatch(variant) for variant in made)


@pytest.mark.parametrize(
    "quotes",
    [('"', '"'), ("''", "''"), ("``", "''"), ('"', "''"), ("``", '"'), ("'' ``", '"'), ('"``', "''\""), ('`` "', "``")],
)
def test_words_between_any_quotes_are_found(quotes):
    opening, closing = quotes
    text = f"a {opening}film{closing} {opening} story {closing} and plot.{closing}"
    assert list(words_of(text)) == ["film", "story", "plot"]


def test_quotes_are_blanked_before_nltk_tokenizes(monkeypatch):
    seen, plain = [], NLTKWordTokenizer.span_tokenize
    monkeypatch.setattr(NLTKWordTokenizer, "span_tokenize", lambda self, text: seen.append(text) or plain(self, text))
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
        ("这部电影很好看。", ["这", "部", "电影", "很好", "看"]),
        ("ภาษาไทย film映画 3D很好", ["ภาษา", "ไทย", "film", "映画", "很好"]),
        ("हिन्दी தமிழ் cafe\u0301 مُحَمَّد", ["हिन्दी", "தமிழ்", "cafe\u0301", "مُحَمَّد"]),
    ],
)
def test_replaceable_words_are_whole_words_of_letters_that_are_not_stop_words(text, expected):
    assert list(words_of(text)) == expected


@pytest.mark.parametrize(
    ("text", "word", "near", "expected"),
    [
        ("这部电影很好看。", "电影", "音乐", "这部音乐很好看。"),
        ("ภาษาไทยไม่มีช่องว่าง", "ไทย", "ลาว", "ภาษาลาวไม่มีช่องว่าง"),
        ("यह हिन्दी है", "हिन्दी", "तमिल", "यह तमिल है"),
        ("a re\u0301sume\u0301 .", "résumé", "letter", "a letter ."),
    ],
)
def test_words_of_other_scripts_and_decomposed_accents_are_replaced(text, word, near, expected):
    assert of_text(text, probability=1, variants=1, vectors=vectors_of([word, near]))[1:] == [expected]


def test_a_word_whose_accent_the_tokenizer_drops_is_one_word_piece():
    vocabulary = [*tiny.SPECIAL, "film", "plot", "cafe"]
    tokenizer = type(tiny.tokenizer())(vocab={piece: n for n, piece in enumerate(vocabulary)}, model_max_length=64)
    assert words_of("cafe\u0301", tokenizer=tokenizer, candidates=9)["cafe\u0301"].candidates == ["film", "plot"]


def test_words_that_the_model_does_not_read_are_not_replaced():
    task = tiny.task(["negative", "positive"], max_length=12)
    changed = [
        {number for number, pair in enumerate(zip(made.split(), LONG.split(), strict=True)) if pair[0] != pair[1]}
        for made in of_text(LONG, task=task, probability=1, variants=3)[1:]
    ]
    assert changed == [set(range(10))] * 3


def test_a_text_that_the_model_reads_to_its_end_gives_the_same_words_for_any_max_length():
    text = " ".join(tiny.NOUNS)
    short, long = (tiny.task(["negative", "positive"], max_length=length) for length in (12, 64))
    assert of_text(text, task=short) == of_text(text, task=long)


def test_the_given_stop_words_are_used():
    assert list(words_of("The Film und the plot", stop={"film", "plot"})) == ["The", "und", "the"]


def test_candidates_of_a_text_shared_by_many_rows_are_computed_once(forwards, monkeypatch):
    """A passage has many questions; they may be in different blocks."""
    monkeypatch.setattr(word_replacement, "BLOCK_ROWS", 2)
    passage = "the film is good and the cast is lovely"
    questions = [f"is the {noun} good" for noun in tiny.NOUNS]
    rows = [{"id": str(n), "first": passage, "second": question} for n, question in enumerate(questions)]
    list(augmenter(task=Pair(), batch_size=1, masked_at_once=1)(rows))
    words_of_a_question = 2
    assert len(forwards) == len(words_of(passage)) + words_of_a_question * len(questions)


def test_words_outside_the_given_spans_are_not_replaceable():
    assert list(words_of("film plot cast story", spans=[(0, 4), (9, 14)])) == ["film", "cast"]


@pytest.mark.parametrize("text", ["", " ", "film", "unwatchable", "zebra", "the", "...", '"', "!?", "\n", "1990"])
def test_a_text_of_one_word_or_none_gives_no_duplicate(text):
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
    assert match_case(original, word) == expected


@quick
@given(st.text(max_size=30), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.text(max_size=4))))
def test_undoing_the_edits_restores_the_text(text, cuts):
    bounds = sorted({min(bound, len(text)) for start, end, _ in cuts for bound in (start, end)})
    spans = list(zip(bounds[::2], bounds[1::2], strict=False))
    cut = [(start, end, f"<{number}>") for number, (start, end) in enumerate(spans)]
    made = splice(text.replace("<", "("), cut)
    for start, end, mark in cut:
        made = made.replace(mark, text.replace("<", "(")[start:end], 1)
    assert made == text.replace("<", "(")


@quick
@given(texts)
def test_variants_are_distinct_and_follow_the_unchanged_original(text):
    row = {"id": "train-0", "text": text, "label": "negative", "note": "kept"}
    before = copy.deepcopy(row)
    original, *variants = augmenter(variants=4)([row])
    assert row == before
    assert original == {**row, "variant": 0}
    assert len({made["text"] for made in [original, *variants]}) == 1 + len(variants) <= 5
    for variant in variants:
        assert {**variant, "text": text, "variant": 0} == original
    assert [made["variant"] for made in variants] == sorted({made["variant"] for made in variants})


@pytest.mark.parametrize(("rows", "variants"), [(50, 20), (500, 20), (2000, 9), (6000, 3), (200_000, 1)])
def test_few_rows_get_many_variants(rows, variants):
    recipe = augmenter(variants=1).settings.model_copy(update={"variants": "auto"})
    assert word_replacement.with_variants(recipe, rows).variants == variants
    assert word_replacement.with_variants(recipe.model_copy(update={"variants": 7}), rows).variants == 7


def test_variants_0_yields_the_originals_without_running_the_model(forwards):
    assert list(augmenter(variants=0)(ROWS)) == [{**row, "variant": 0} for row in ROWS]
    assert forwards == []


class Pair:
    """A task of two texts; in the second, only words in the first four characters may be replaced."""

    pieces_read = None

    def replaceable_spans(self, row):
        return {"first": (row["first"], [(0, len(row["first"]))]), "second": (row["second"], [(0, 4)])}

    def apply_edits(self, row, field, edits):
        return {**row, field: splice(row[field], edits)}


def test_a_variant_of_a_pair_changes_one_of_its_texts():
    row = {"id": "train-0", "first": "film plot cast story", "second": "film scene plot"}
    _, *variants = augmenter(task=Pair(), variants=10, probability=1)([row])
    changed = [[name for name in ("first", "second") if variant[name] != row[name]] for variant in variants]
    assert {tuple(names) for names in changed} == {("first",), ("second",)}
    assert all(variant["second"].endswith(" scene plot") for variant in variants)


@torch.no_grad()
def test_long_rows_make_shorter_blocks(monkeypatch):
    monkeypatch.setattr(word_replacement, "BLOCK_ROWS", 10)
    assert [len(block) for block in word_replacement.blocks(ROWS)] == [10, 10, 4]
    monkeypatch.setattr(word_replacement, "BLOCK_CHARACTERS", 1)
    assert [len(block) for block in word_replacement.blocks(ROWS)] == [1] * 24
