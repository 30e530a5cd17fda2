import random
import warnings

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from seqeval.scheme import IOB1, IOB2, IOBES, Entities
from transformers import BertForTokenClassification, pipeline

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Source, Text
from pipeline.tinybert.data.cells import BadRecordError
from pipeline.tinybert.preparation.records import parse_records
from pipeline.tinybert.tasks.named_entities import spans_of, to_iob2

TYPES = ["cast", "film"]
LABELS = ["O", "B-cast", "I-cast", "B-film", "I-film"]
TASK = tiny.task(LABELS, "f1", kind="named_entities")
KEY = "tasks.tiny.source"
ROW = {
    "id": "train-0",
    "words": ["The", "director", "of", "great", "heartwarming", "plot", "is", "Lovely", "Smith", "."],
    "tags": ["O", "O", "O", "B-film", "I-film", "I-film", "O", "B-cast", "I-cast", "O"],
}


def read(*records, labelled=True, **source):
    numbered = [(f"rows.conll, sentence at line {number}", record) for number, record in enumerate(records, 1)]
    settings = Source(location="x", **source) if labelled else Text(location="x", limit=9, **source)
    return parse_records(TASK, numbered, settings, KEY, labelled)


# Rows and schemes.


def test_tags_may_be_numbers_with_names_in_the_setting_labels():
    labels = {"O": 0, "B-film": 1, "I-film": 2}
    [row] = read({"words": ["great", "plot", "."], "tags": [1, 2, 0]}, labels=labels)
    assert row["tags"] == ["B-film", "I-film", "O"]
    expected = r"word 1 \(a\), tag '3': a number: name the tags in the source's `labels`: {O: 0, B-TYPE: 1, …}"
    for source in ({"labels": labels}, {}):
        with pytest.raises(UserError, match=f"^{KEY}: rows.conll, sentence at line 1: {expected}$"):
            read({"words": ["a"], "tags": [3]}, **source)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("word", [None, float("nan")])
def test_a_missing_word_is_reported(word, labelled):
    with pytest.raises(UserError, match=r"line 1: column 'words': value 2 is (None|nan): expected text$"):
        read({"words": ["a", word], "tags": ["O", "O"]}, labelled=labelled)


def test_words_and_tags_may_be_texts_with_blanks_between_them():
    [row] = read({"words": "Lovely  Smith .", "tags": "B-cast I-cast O"})
    assert (row["words"], row["tags"]) == (["Lovely", "Smith", "."], ["B-cast", "I-cast", "O"])


def test_lists_may_be_written_as_text():
    [row] = read({"words": "['a', \"it's\"]", "tags": '["O", "O"]'})
    assert (row["words"], row["tags"]) == (["a", "it's"], ["O", "O"])
    with pytest.raises(UserError, match="column 'words': expected a list, found str"):
        read({"words": "['a' 'b']", "tags": "['O', 'O']"})


words_and_entities = st.lists(st.tuples(st.sampled_from([None, *TYPES]), st.integers(1, 3)), min_size=1, max_size=8)


def tags_of(parts, scheme: str) -> list[str]:
    """Tags of runs of words: (entity type, or None for words outside entities; number of words)."""
    tags, before = [], None
    for kind, length in parts:
        if kind is None:
            tags += ["O"] * length
        elif scheme == "IOB2":
            tags += [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
        elif scheme == "IOB1":
            tags += [f"{'B' if before == kind else 'I'}-{kind}", *[f"I-{kind}"] * (length - 1)]
        else:
            one = length == 1
            tags += [f"S-{kind}"] if one else [f"B-{kind}", *[f"I-{kind}"] * (length - 2), f"E-{kind}"]
        before = kind
    return tags


@pytest.mark.parametrize(("scheme", "seqeval_scheme"), [("IOB2", IOB2), ("IOB1", IOB1), ("BIOES", IOBES)])
@settings(deadline=None)
@given(parts=words_and_entities)
def test_every_scheme_gives_the_entities_that_seqeval_finds(scheme, seqeval_scheme, parts):
    tags = tags_of(parts, scheme)
    converted = to_iob2(["word"] * len(tags), tags, scheme)
    assert converted == tags_of(parts, "IOB2")
    expected = Entities([tags], seqeval_scheme).entities[0]
    assert spans_of(converted) == {(entity.tag, entity.start, entity.end) for entity in expected}


@pytest.mark.parametrize(
    ("tags", "scheme", "expected"),
    [
        (
            ["O", "I-cast"],
            "IOB2",
            "word 2 (word), tag 'I-cast' after 'O': not IOB2, the source's `scheme`: the tag continues an entity",
        ),
        (["B-film", "I-cast"], "IOB2", "word 2 (word), tag 'I-cast' after 'B-film': not IOB2"),
        (
            ["O", "B-cast"],
            "IOB1",
            "tag 'B-cast' after 'O': not IOB1, the source's `scheme`: B- is only for an entity that directly",
        ),
        (
            ["B-cast", "O"],
            "BIOES",
            "tag 'O' after 'B-cast': not BIOES: the entity before it does not end",
        ),
        (["O", "B-cast"], "BIOES", "word 2 (word), tag 'B-cast': not BIOES: the entity does not end"),
        (["E-cast", "O"], "BIOES", "the tag continues an entity that did not begin"),
        (["S-cast", "I-cast"], "BIOES", "the tag continues an entity that did not begin"),
        (
            ["cast", "O"],
            "IOB2",
            "tag 'cast': expected O or B-TYPE or I-TYPE (the source's `scheme` is IOB2",
        ),
        (["S-cast", "O"], "IOB2", "tag 'S-cast': expected O or B-TYPE or I-TYPE"),
        (["B-", "O"], "IOB2", "tag 'B-': expected O"),
    ],
)
def test_tags_outside_the_scheme_or_in_an_invalid_order_are_refused(tags, scheme, expected):
    with pytest.raises(BadRecordError) as raised:
        to_iob2(["word"] * len(tags), tags, scheme)
    assert expected in str(raised.value)


def test_bilou_is_read_as_bioes():
    tags = ["B-cast", "I-cast", "L-cast", "O", "U-plot"]
    assert to_iob2(["word"] * 5, tags, "BIOES") == ["B-cast", "I-cast", "I-cast", "O", "B-plot"]
    with pytest.raises(BadRecordError, match="word 5 .word., tag 'U-plot': expected O or B-TYPE or I-TYPE"):
        to_iob2(["word"] * 5, ["O", "O", "O", "O", "U-plot"], "IOB2")


def test_sentences_become_rows_in_iob2():
    rows = read({"words": ["Smith", "acts"], "tags": ["S-cast", "O"]}, scheme="BIOES")
    assert rows == [{"words": ["Smith", "acts"], "tags": ["B-cast", "O"], "where": "rows.conll, sentence at line 1"}]
    assert read({1: ["a"], 4: ["O"]}, words=1, tags=4)[0]["words"] == ["a"]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"words": ["a", "b"], "tags": ["O"]}, "2 words, 1 tags: expected one tag for each word"),
        ({"words": [], "tags": []}, "column 'words': empty: expected at least one word"),
        ({"words": ["a", " "], "tags": ["O", "O"]}, "word 2 is ' '"),
        ({"words": "a b c", "tags": ["O", "O"]}, "3 words, 2 tags: expected one tag for each word"),
        ({"words": "['a' 'b']", "tags": ["O", "O"]}, "column 'words': expected a list, found str"),
        ({"words": ["a"], "tags": None}, "column 'tags': expected a list"),
    ],
)
def test_a_bad_sentence_is_reported_with_its_line(record, expected):
    with pytest.raises(UserError) as raised:
        read({"words": ["a"], "tags": ["O"]}, record)
    assert str(raised.value).startswith(f"{KEY}: rows.conll, sentence at line 2: ")
    assert expected in str(raised.value)


def test_unlabelled_sentences_are_words_or_text():
    assert read({"words": ["a", "b"]}, labelled=False)[0]["words"] == ["a", "b"]
    assert read({"review": "A film, by Smith."}, labelled=False, text="review")[0]["words"] == [
        "A", "film", ",", "by", "Smith", ".",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("这部电影很好看。", ["这", "部", "电影", "很好", "看", "。"]),
        ('a "good" film', ["a", '"', "good", '"', "film"]),
    ],
)
def test_the_words_of_unlabelled_text_are_its_own_in_any_language(text, expected):
    assert read({"review": text}, labelled=False, text="review")[0]["words"] == expected


def test_labels_are_o_and_both_prefixes_of_every_type():
    rows = [{"tags": ["B-film", "O"]}, {"tags": ["B-cast", "I-cast"]}]
    assert TASK.label_names(rows, Source(location="x"), KEY) == LABELS
    with pytest.raises(UserError, match="no entity in 1 sentences: check `tags`"):
        TASK.label_names([{"tags": ["O"]}], Source(location="x"), KEY)


# Model inputs and predictions.


def test_only_the_first_word_piece_of_each_word_counts():
    encoded = TASK.encode([{"words": ["heartwarming", "film"], "tags": ["B-film", "I-film"]}], tiny.tokenizer())
    pieces = tiny.tokenizer().convert_ids_to_tokens(encoded["input_ids"][0])
    assert pieces == ["[CLS]", "heart", "##warm", "##ing", "film", "[SEP]"]
    assert encoded["label_mask"] == [[False, True, False, False, True, False]]
    assert encoded["labels"] == [[-100, 3, -100, -100, 4, -100]]


def test_a_word_that_the_tokenizer_drops_keeps_its_tag():
    encoded = TASK.encode([{"words": ["film", "\u200d", "plot"], "tags": ["O", "B-cast", "O"]}], tiny.tokenizer())
    assert tiny.tokenizer().convert_ids_to_tokens(encoded["input_ids"][0])[2] == "[UNK]"
    assert encoded["labels"][0][1:4] == [0, 1, 0]


def test_words_cut_off_by_truncation_count_as_no_entity(capsys):
    task = tiny.task(LABELS, "f1", max_length=8, kind="named_entities")
    row = {"words": ["film"] * 10, "tags": ["B-film"] * 10}
    encoded = task.encode([row], tiny.tokenizer())
    assert sum(encoded["label_mask"][0]) == 6
    assert task.predictions([np.eye(5)[[3] * 6]], None, [row]) == [["B-film"] * 6 + ["O"] * 4]
    assert "1 of 1 texts are longer than 8 word pieces" in (printed := capsys.readouterr().out)
    assert "4 of 10 words are cut off" in printed


def test_a_saved_model_predicts_the_task_s_tags(tmp_path):
    tiny.write_checkpoint(tmp_path / "model", layers=1)
    model = TASK.load_model(tmp_path / "model")
    assert isinstance(model, BertForTokenClassification)
    model.save_pretrained(tmp_path / "model")
    tagged = pipeline("token-classification", model=str(tmp_path / "model"), ignore_labels=[])("good film")
    assert [word["word"] for word in tagged] == ["good", "film"]
    assert {word["entity"] for word in tagged} <= set(LABELS)


tag_lists = st.lists(st.sampled_from(LABELS), min_size=1, max_size=8)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(tag_lists.flatmap(lambda tags: st.tuples(st.just(tags), st.permutations(tags))), min_size=1, max_size=6)
)
def test_scores_equal_seqeval_s(pairs):
    actual, predicted = map(list, zip(*pairs, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            theirs = classification_report(
                actual, predicted, mode="strict", scheme=IOB2, output_dict=True, zero_division=0
            )
        except ValueError:  # seqeval has no report if no side has an entity
            theirs = {"micro avg": {"precision": 0, "recall": 0, "f1-score": 0}}
    rows = [{"words": ["word"] * len(tags), "tags": tags} for tags in actual]
    ours = TASK.score(rows, predicted)
    for our_name, their_name in {"precision": "precision", "recall": "recall", "f1": "f1-score"}.items():
        assert ours[our_name] == pytest.approx(theirs["micro avg"][their_name])
    for kind in TYPES:
        assert ours["f1_by_type"][kind] == pytest.approx(theirs.get(kind, {"f1-score": 0})["f1-score"])


def test_calibration_compares_each_tag_s_probability_with_its_correctness_without_truncated_words():
    rows = [{"words": ["a", "b", "c"], "tags": ["O", "B-film", "O"]}, {"words": ["d"], "tags": ["B-cast"]}]
    logits = [np.log([[0.6, 0.1, 0.1, 0.1, 0.1], [0.2, 0.5, 0.1, 0.1, 0.1]]), np.log([[0.1, 0.6, 0.1, 0.1, 0.1]])]
    confidence, correct = TASK.calibration(rows, [["O", "B-cast", "O"], ["B-cast"]], logits)
    np.testing.assert_allclose(confidence, [0.6, 0.5, 0.6])
    assert correct.tolist() == [True, False, True]


def test_the_length_is_the_number_of_words_even_if_a_word_contains_spaces():
    assert TASK.length({"words": ["1\u00a0000", "films"], "tags": ["O", "O"]}) == 2


def test_the_trivial_predictor_predicts_no_entity():
    trivial = TASK.trivial_predictions([ROW], [ROW])
    assert trivial == [["O"] * 10]
    assert TASK.score([ROW], trivial)["f1"] == 0


def test_the_confusion_compares_types_of_words_in_actual_or_predicted_entities():
    row = {"words": list("abcd"), "tags": ["B-film", "I-film", "O", "O"]}
    pairs = TASK.confusion([row], [["B-film", "O", "B-cast", "O"]])
    assert list(pairs) == [("film", "film"), ("film", "none"), ("none", "cast")]


# Augmentation.


def test_only_words_outside_entities_are_replaceable():
    text, spans = TASK.replaceable_spans(ROW)["text"]
    assert text == "The director of great heartwarming plot is Lovely Smith ."
    assert [text[start:end] for start, end in spans] == ["The", "director", "of", "is", "."]


def test_all_words_of_a_row_without_tags_are_replaceable():
    assert len(TASK.replaceable_spans({"words": ["a", "film"]})["text"][1]) == 2


SOME_WORDS = ["film", "Smith", "won't", "U.S.", "電影", "a", "co-star"]
rows = st.tuples(words_and_entities, st.integers(0, 99)).map(
    lambda parts_and_seed: {
        "id": "train-0",
        "tags": (tags := tags_of(parts_and_seed[0], "IOB2")),
        "words": random.Random(parts_and_seed[1]).choices(SOME_WORDS, k=len(tags)),
    }
)


@settings(deadline=None)
@given(row=rows, seed=st.integers(0, 99))
def test_replaced_words_keep_their_tags_and_entities_stay_unchanged(row, seed):
    draw = random.Random(seed)
    text, spans = TASK.replaceable_spans(row)["text"]
    edits = [(start, end, draw.choice(["movie", "Los", "it"])) for start, end in spans if draw.random() < 0.5]
    edited = TASK.apply_edits(row, "text", edits)
    assert edited["tags"] == row["tags"] and len(edited["words"]) == len(row["words"])
    changed = {start for start, _, _ in edits}
    starts = np.cumsum([0, *(len(word) + 1 for word in row["words"])])[:-1]
    for old, new, tag, start in zip(row["words"], edited["words"], row["tags"], starts, strict=True):
        assert new == old or (tag == "O" and start in changed)


def entities(row) -> list[tuple[str, str]]:
    spans = sorted(spans_of(row["tags"]), key=lambda span: span[1])
    return [(kind, " ".join(row["words"][start:end])) for kind, start, end in spans]


POOL = {"cast": ["Jane Doe", "Smith", "Anna de la Cruz"], "film": ["Heat", "The Big Sleep"]}


@settings(deadline=None)
@given(row=rows, seed=st.integers(0, 99))
def test_swapped_entities_keep_their_types_and_other_words_stay_unchanged(row, seed):
    edits = TASK.draw_swaps(row, POOL, 1.0, random.Random(seed))["text"]
    edited = TASK.apply_edits(row, "text", edits)
    assert len(edited["tags"]) == len(edited["words"])
    assert [kind for kind, _ in entities(edited)] == [kind for kind, _ in entities(row)]
    for (kind, old), (_, new) in zip(entities(row), entities(edited), strict=True):
        assert new in POOL[kind] and new != old
    outside = [[word for word, tag in zip(r["words"], r["tags"], strict=True) if tag == "O"] for r in (row, edited)]
    assert outside[0] == outside[1]


def test_a_word_of_a_swapped_entity_keeps_its_no_break_space():
    row = {"words": ["in", "Rome"], "tags": ["O", "B-place"]}
    edits = TASK.draw_swaps(row, {"place": ["New\xa0York"]}, 1.0, random.Random(0))["text"]
    assert TASK.apply_edits(row, "text", edits) == {"words": ["in", "New\xa0York"], "tags": ["O", "B-place"]}


def test_no_entity_is_swapped_at_probability_0_or_without_another_of_its_type():
    assert TASK.draw_swaps(ROW, POOL, 0.0, random.Random(0)) == {"text": []}
    assert TASK.draw_swaps(ROW, {"cast": ["Lovely Smith"]}, 1.0, random.Random(0)) == {"text": []}  # no other entity


def test_the_distinct_entities_of_train_are_collected_by_type():
    other = {"words": ["Smith", "and", "Lovely", "Smith"], "tags": ["B-cast", "O", "B-cast", "I-cast"]}
    assert TASK.swap_candidates([ROW, other, ROW]) == {
        "film": ["great heartwarming plot"],
        "cast": ["Lovely Smith", "Smith"],
    }
