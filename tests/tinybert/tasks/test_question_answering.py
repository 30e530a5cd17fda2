import json
import random
import re

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.text import squad
from transformers import BertForQuestionAnswering

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Source, Text
from pipeline.tinybert.data.cells import BadRecordError
from pipeline.tinybert.data.part_of_text import find_part
from pipeline.tinybert.preparation.records import parse_records
from pipeline.tinybert.tasks.squad import exact_match, f1, normalised
from pipeline.tinybert.tasks.task import splice

KEY = "tasks.tiny.source"
TASK = tiny.task([], "f1", kind="question_answering")
SQUAD_2 = tiny.task([], "f1", kind="question_answering", unanswerable=True)
PASSAGE = "The film was good . The director of the film was great and the cast was lovely ."
QUESTION = "was the director lovely"
TOKENIZER = tiny.tokenizer()


def row_of(*answers: str, passage: str = PASSAGE, question: str = QUESTION) -> dict:
    located = [{"text": text, "start": passage.index(text)} for text in answers]
    return {"id": "train-0", "question": question, "passage": passage, "answers": located}


def record(*answers: tuple[str, int], passage: str = PASSAGE) -> dict:
    cell = [{"text": text, "answer_start": start} for text, start in answers]
    return {"question": QUESTION, "context": passage, "answers": cell}


def read(*records, task=TASK, labelled=True, **source):
    numbered = [(f"rows.json, question {number}", record) for number, record in enumerate(records, 1)]
    settings = Source(location="x", **source) if labelled else Text(location="x", limit=9, **source)
    return parse_records(task, numbered, settings, KEY, labelled)


# Rows.


def test_questions_become_rows_with_their_answers():
    (row,) = read(record(("great", 49), ("lovely", 72), ("great", 49)))
    assert row["answers"] == [{"text": "great", "start": 49}, {"text": "lovely", "start": 72}]
    assert (row["question"], row["passage"]) == (QUESTION, PASSAGE)


def test_all_forms_of_squad_answers_are_read():
    one, other = {"text": "great", "answer_start": 49}, {"text": ["great"], "answer_start": [49]}
    expected = read(record(("great", 49)))[0]["answers"]
    for cell in (one, json.dumps(one), str(one), other, json.dumps(other), str([one])):
        assert read({**record(), "answers": cell})[0]["answers"] == expected


@pytest.mark.parametrize("times", [1, 9])  # nine are written in several lines
def test_answers_of_parquet_that_pandas_wrote_to_csv_are_read(tmp_path, times):
    cell = {"text": ["great"] * times, "answer_start": np.array([49] * times, dtype=np.int32)}
    pd.DataFrame([{**record(), "answers": cell}]).to_parquet(tmp_path / "rows.parquet")
    pd.read_parquet(tmp_path / "rows.parquet").to_csv(tmp_path / "rows.csv", index=False)
    [written] = pd.read_csv(tmp_path / "rows.csv").to_dict("records")
    assert "array(['great'" in written["answers"]
    assert read(written)[0]["answers"] == [{"text": "great", "start": 49}]


@pytest.mark.parametrize(
    "cell",
    [
        {"text": None, "answer_start": None},
        {"text": [""], "answer_start": [-1]},
        {"text": "", "answer_start": -1},
        str({"text": [""], "answer_start": [-1]}),
        "{'text': array([], dtype=object), 'answer_start': array([], dtype=int32)}",
    ],
)
def test_a_missing_answer_is_none(cell):
    assert read({**record(), "answers": cell}, task=SQUAD_2)[0]["answers"] == []
    with pytest.raises(UserError, match="no answer: every question needs one"):
        read({**record(), "answers": cell})


@pytest.mark.parametrize("cell", [None, float("nan"), ""])
def test_an_empty_cell_is_no_answer_and_is_listed(capsys, cell):
    rows = read(record(("great", 49)), record(), {**record(), "answers": cell}, task=SQUAD_2)
    assert rows[2]["answers"] == []
    listed = f"{KEY}: 1 rows repaired: rows.json, question 3: column 'answers' is empty, which counts as no answer"
    assert capsys.readouterr().out.splitlines() == [listed]
    with pytest.raises(UserError, match="no answer: every question needs one"):
        read({**record(), "answers": cell})


def test_offsets_follow_a_passage_that_is_stripped_of_white_space():
    (row,) = read(record(("great", 52), passage=f"  \n{PASSAGE} "))
    assert row["passage"] == PASSAGE and row["answers"] == [{"text": "great", "start": 49}]
    (row,) = read(record((" great ", 48)))
    assert row["answers"] == [{"text": "great", "start": 49}]


def test_an_offset_far_before_the_text_is_refused():
    text = "a" * 10 + "Paris" + "b" * 400
    with pytest.raises(BadRecordError, match="the answer 'Paris' is not at character -200 of its context, but at 10"):
        find_part("Paris", -200, text, "answer", "context")


def test_a_wrong_offset_is_repaired_if_the_answer_occurs_once_nearby(capsys):
    rows = read(record(("great", 44)), record(("great", 49)), record(("lovely", 75)))
    assert [row["answers"][0]["start"] for row in rows] == [49, 49, 72]
    repaired = "2 rows repaired: rows.json, question 1: the answer 'great' begins at 49, not at 44;"
    assert capsys.readouterr().out.startswith(f"{KEY}: {repaired}")


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (record(("superb", 3)), "the answer 'superb' does not occur in its passage"),
        (
            record(("was", 22)),
            "the answer 'was' is not at character 22 of its passage, but at 9; 45; 68: correct its start",
        ),
        (record(), "no answer: every question needs one (for SQuAD 2.0, set"),
        (record((" ", 3)), "an answer is an empty text"),
        ({**record(("great", 49)), "context": ""}, "column 'context': empty passage"),
        ({**record(("great", 49)), "context": None}, "column 'context': empty passage"),
        ({**record(("great", 49)), "question": " "}, "column 'question': empty question"),
        ({**record(), "answers": ["great"]}, "answers: expected a list of objects with `text` and `answer_start`"),
        ({**record(), "answers": [{"text": "great"}]}, "answer_start of 'great' is None: expected a whole number"),
        ({**record(), "answers": {"text": "great"}}, "answer_start of 'great' is None: expected a whole number"),
        ({**record(), "answers": {"text": [""], "answer_start": [0]}}, "an answer is an empty text"),
        ({**record(), "answers": "['great' 'film']"}, "answers: expected a list of objects with"),
        ({**record(), "answers": "{'text': print(['great']), 'answer_start': [4]}"}, "answers: expected a list of obj"),
        ({**record(), "answers": {"text": ["great"], "answer_start": []}}, "answers: expected a list of objects"),
        ({**record(), "answers": {"text": ["great"], "answer_start": [None]}}, "answer_start of 'great' is None"),
        ({**record(), "answers": "great"}, "answers: expected a list of objects with `text` and `answer_start`"),
    ],
)
def test_a_bad_question_is_reported_with_its_place(bad, expected):
    with pytest.raises(UserError) as raised:
        read(record(("great", 49)), bad)
    assert str(raised.value).startswith(f"{KEY}: rows.json, question 2: ")
    assert expected in str(raised.value)


def test_questions_may_have_no_answer_in_squad_2():
    assert read(record(), task=SQUAD_2)[0]["answers"] == []


def test_unlabelled_questions_need_no_answers():
    (row,) = read({"question": QUESTION, "context": PASSAGE}, labelled=False)
    assert "answers" not in row and row["question"] == QUESTION


def test_questions_on_the_same_passage_form_a_group():
    assert TASK.group(row_of("great")) == TASK.group(row_of("lovely"))
    assert TASK.group(row_of("great")) != TASK.group(row_of("great", passage=PASSAGE + " Really ."))


# Windows.

LONG = " ".join(f"{word} {noun}" for word in ["The", "a", "this"] for noun in tiny.NOUNS) + " is superb ."


def test_a_short_passage_is_one_window_in_which_passage_and_first_token_count():
    encoded = TASK.encode([row_of("great")], TOKENIZER)
    pieces = TOKENIZER.convert_ids_to_tokens(encoded["input_ids"][0])
    separator = pieces.index("[SEP]")
    assert encoded["label_mask"] == [
        [number == 0 or separator < number < len(pieces) - 1 for number in range(len(pieces))]
    ]
    assert encoded["spans"][0][0] == [0, 0]
    words = [PASSAGE[start:end].lower() for start, end in encoded["spans"][0][1:]]
    assert [word if word != "of" else "[UNK]" for word in words] == pieces[separator + 1 : -1]
    assert pieces[encoded["start_positions"][0]] == pieces[encoded["end_positions"][0]] == "great"


@pytest.mark.parametrize("stride", [0, 4, 8])
def test_a_long_passage_becomes_overlapping_windows_that_cover_it(stride):
    task = tiny.task([], "f1", kind="question_answering", max_length=32, stride=stride)
    encoded = task.encode([row_of("superb", passage=LONG), row_of("great")], TOKENIZER)
    windows = [number for number, example in enumerate(encoded["example"]) if example == 0]
    assert len(windows) > 2 and encoded["example"][-1] == 1
    assert max(len(ids) for ids in encoded["input_ids"]) == 32
    seen = [tuple(span) for number in windows for span in encoded["spans"][number][1:]]
    assert {LONG[start:end] for start, end in set(seen)} == set(LONG.split())
    assert len(set(seen)) == len(LONG.split())
    assert len(seen) - len(set(seen)) == stride * (len(windows) - 1)
    # The answer is in the last window; the targets of the others are the first token.
    starts = [encoded["start_positions"][number] for number in windows]
    assert starts[:-1] == [0] * (len(windows) - 1) and starts[-1] > 0
    assert TOKENIZER.convert_ids_to_tokens(encoded["input_ids"][windows[-1]])[starts[-1]] == "superb"


DROPPED = ["", "\u0301", "\u200b", "\u200e", "\u00ad", "\ufe0f", "\u064c", "\u0e35", "\u200b\u0301"]
INVISIBLE = ("\u200b", "\u200e", "\u00ad")
wrapped_words = st.tuples(*map(st.sampled_from, (DROPPED, ["film", "caf", "(", "99", "❤", "电", "محمد"], DROPPED)))
wrapped_passages = st.lists(wrapped_words, min_size=1, max_size=9)


@st.composite
def answers_with_dropped_characters(draw):
    """A passage, and the span of an answer with dropped characters at its ends, or with invisible ones beside them."""
    made = draw(wrapped_passages)
    passage, starts, ends = "", [], []
    for before, word, after in made:
        starts.append(len(passage) + (draw(st.sampled_from([0, len(before)])) if before in INVISIBLE else 0))
        passage += before + word + after
        ends.append(len(passage))
        passage += " "
    first = draw(st.integers(0, len(made) - 1))
    last = draw(st.integers(first, len(made) - 1))
    return passage.strip(), starts[first], ends[last]


@settings(deadline=None)
@given(answers_with_dropped_characters(), st.sampled_from([32, 64]))
def test_a_perfect_model_scores_1_on_an_answer_with_characters_that_the_tokenizer_drops(case, max_length):
    passage, start, end = case
    task = tiny.task([], "f1", kind="question_answering", max_length=max_length, stride=4)
    row = {"question": QUESTION, "passage": passage, "answers": [{"text": passage[start:end], "start": start}]}
    encoded = task.encode([row], TOKENIZER)
    logits = []
    for window, mask in enumerate(encoded["label_mask"]):
        targets = encoded["start_positions"][window], encoded["end_positions"][window]
        values = np.zeros((len(mask), 2), dtype=np.float32)
        values[targets[0], 0] = values[targets[1], 1] = 9 if any(targets) else 0
        logits.append(values[np.array(mask)])
    [prediction] = task.predictions(logits, encoded, [row])
    assert task.score([row], [prediction])["f1"] == 1
    assert passage[prediction["start"] :].startswith(prediction["text"])


@pytest.mark.parametrize("dropped", DROPPED[1:])
def test_an_answer_that_ends_with_dropped_characters_is_predicted_with_them(dropped):
    passage = f"{dropped}director{dropped} of film{dropped}, the plot"
    answer = predictions(
        TASK, row_of(passage=passage), lambda word: (3, 0) if "director" in word else (0, "film" in word)
    )
    assert (answer["text"], answer["start"]) == (f"{dropped}director{dropped} of film{dropped}", 0)


def test_texts_that_differ_in_invisible_characters_are_the_same_answer():
    assert normalised("\u200eThe \u200bPa\u00adris\u200e") == "paris"


def test_an_answer_of_invisible_characters_is_refused():
    with pytest.raises(UserError, match="an answer is an empty text"):
        read(record(("\u200b", 3), passage="the\u200b film"))


def test_a_question_without_an_answer_points_to_the_first_token():
    encoded = SQUAD_2.encode([row_of()], TOKENIZER)
    assert (encoded["start_positions"], encoded["end_positions"]) == ([0], [0])


def test_a_max_length_without_room_for_a_passage_is_refused():
    task = tiny.task([], "f1", kind="question_answering", max_length=31)
    with pytest.raises(UserError, match="^max_length: 31: question and passage need 32 word pieces or more"):
        task.encode([row_of("great")], TOKENIZER)


def test_a_long_question_is_truncated_and_counted(capsys):
    encoded = TASK.encode([row_of("great", question="film " * 40)], TOKENIZER)
    assert TOKENIZER.convert_ids_to_tokens(encoded["input_ids"][0]).index("[SEP]") == 17
    assert "1 of 1 questions are longer than 16 word pieces" in capsys.readouterr().out


def test_start_and_end_are_the_class_logits(tmp_path):
    tiny.write_checkpoint(tmp_path / "encoder", layers=1)
    model = TASK.load_model(tmp_path / "encoder")
    assert isinstance(model, BertForQuestionAnswering)
    outputs = model(**TOKENIZER("a film", "is good", return_tensors="pt"))
    logits = TASK.class_logits(outputs)
    assert logits.shape == (1, 7, TASK.num_classes)
    assert torch.equal(logits[..., 1], outputs.end_logits)


# Predictions.


def predicted(text: str, margin: float = 0.0) -> dict:
    return {"text": text, "start": 0, "margin": margin}


def predictions(task, row, logits_of_word) -> dict:
    """The task's prediction for a row. ``logits_of_word``: word → its (start, end) logits; the class token is ""."""
    data = task.encode([row], TOKENIZER)
    logits = []
    for spans in data["spans"]:
        words = ["", *(row["passage"][start:end] for start, end in spans[1:])]
        logits.append(np.array([logits_of_word(word) for word in words], dtype=np.float32))
    return task.predictions(logits, data, [row])[0]


def test_the_best_start_and_end_form_the_answer():
    scores = {"director": (5, 0), "film": (0, 4), "": (1, 1)}
    answer = predictions(TASK, row_of("great"), lambda word: scores.get(word, (0, 0)))
    assert (answer["text"], answer["start"]) == ("director of the film", PASSAGE.index("director"))
    assert answer["margin"] == 2 - 9


def test_an_end_before_the_start_and_a_too_long_answer_are_never_predicted():
    task = tiny.task([], "f1", kind="question_answering", longest_answer=2)
    scores = {"cast": (9, 0), "director": (0, 9), "great": (6, 0), "lovely": (0, 6)}
    # "great … lovely" is the best span with its end after its start, but it is too long.
    assert predictions(task, row_of("great"), lambda word: scores.get(word, (0, 0)))["text"] in (
        "The director", "cast was",
    )  # fmt: skip


def test_the_answer_comes_from_the_best_window():
    task = tiny.task([], "f1", kind="question_answering", max_length=32, stride=4)
    answer = predictions(task, row_of("superb", passage=LONG), lambda word: (3, 3) if word == "superb" else (0, 0))
    assert (answer["text"], answer["start"]) == ("superb", LONG.index("superb"))


def test_the_probability_of_an_answer_is_the_product_of_its_start_and_end_probabilities():
    scores = {"director": (3, 0), "great": (0, 2), "": (1, 1)}
    answer = predictions(TASK, row_of("great"), lambda word: scores.get(word, (0, 0)))
    others = len(PASSAGE.split()) - 1
    starts, ends = (np.exp(best) + np.exp(1) + others for best in (3, 2))
    assert answer["text"] == "director of the film was great"
    assert answer["probability"] == pytest.approx(np.exp(3 + 2) / (starts * ends))
    assert answer["none_probability"] == pytest.approx(np.exp(1 + 1) / (starts * ends))


def test_the_probabilities_of_answer_and_no_answer_are_each_within_their_own_window():
    task = tiny.task([], "f1", kind="question_answering", max_length=32, stride=4)
    row = row_of("superb", passage=LONG)
    data = task.encode([row], TOKENIZER)
    logits = [np.zeros((len(spans), 2), dtype=np.float32) for spans in data["spans"]]
    assert len(logits) > 2
    logits[1][0] = -1  # the lowest score of "no answer" is here, and the highest score of an answer in the last window
    logits[-1][-1] = 2
    (answer,) = task.predictions(logits, data, [row])
    none, best = (np.exp(logit) / (np.exp(logit) + len(logits[i]) - 1) for logit, i in ((-1, 1), (2, -1)))
    assert answer["none_probability"] == pytest.approx(none**2)
    assert answer["probability"] == pytest.approx(best**2)


def test_calibration_compares_the_prediction_s_probability_with_exact_match():
    rows = [row_of("great"), row_of("great"), row_of()]
    answers = [
        {**predicted("Great!", margin), "probability": probability, "none_probability": 1 / 8}
        for margin, probability in [(-1, 0.75), (1, 0.5), (2, 0.5)]
    ]
    confidence, correct = SQUAD_2.calibration(rows, SQUAD_2.apply_threshold(answers, 0), [])
    assert (confidence.tolist(), correct.tolist()) == ([0.75, 1 / 8, 1 / 8], [1, 0, 1])


def test_the_length_is_the_number_of_words_of_the_first_reference_answer():
    assert TASK.length(row_of("the cast", "great")) == 2
    assert SQUAD_2.length(row_of()) == 0
    assert TASK.length(row_of("很好看", passage="电影很好看")) == 2


def test_no_answer_is_predicted_if_the_margin_is_above_the_threshold():
    given_answers = [predicted("great", -1.0), predicted("great", 1.0)]
    assert [answer["text"] for answer in SQUAD_2.apply_threshold(given_answers, 0.5)] == ["great", ""]
    assert SQUAD_2.apply_threshold(given_answers, None) == given_answers


margins = st.lists(st.tuples(st.integers(-3, 3).map(float), st.booleans(), st.booleans()), min_size=1, max_size=12)


@settings(deadline=None)
@given(margins)
def test_no_other_threshold_scores_better(cases):
    rows = [row_of("great") if answerable else row_of() for _, answerable, _ in cases]
    answers = [predicted("great" if correct else "the film", margin) for margin, _, correct in cases]

    def score(threshold):
        return SQUAD_2.score(rows, SQUAD_2.apply_threshold(answers, threshold))["f1"]

    best = max(score(threshold) for threshold in np.arange(-4.5, 5, 0.5))
    assert score(SQUAD_2.best_threshold(rows, answers)) == pytest.approx(best)


def test_squad_1_needs_no_threshold():
    assert TASK.best_threshold([row_of("great")], [predicted("great")]) is None


def test_the_threshold_is_finite_beside_a_passage_without_a_word_piece():
    """There is no answer to compare with, so the margin of such a passage is infinite."""
    row = {"question": "which film?", "passage": "\u200d", "answers": []}
    data = SQUAD_2.encode([row], TOKENIZER)
    (alone,) = SQUAD_2.predictions([np.zeros((len(spans), 2)) for spans in data["spans"]], data, [row])
    assert alone["margin"] == np.inf and alone["text"] == ""
    assert SQUAD_2.best_threshold([row], [alone]) == 0
    rows, answers = [row_of("great"), row_of("great")], [predicted("great") | {"margin": m} for m in (1.0, 2.0)]
    expected = SQUAD_2.best_threshold(rows, answers)
    assert SQUAD_2.best_threshold([*rows, row], [*answers, alone]) == expected < np.inf
    assert SQUAD_2.apply_threshold([alone], expected)[0]["text"] == ""
    assert not TASK.needs_threshold and SQUAD_2.needs_threshold


SOME_WORDS = "the a An film Film, good-bad 1990s — it's (good) été U.S.".split()
answer_texts = st.lists(st.sampled_from(SOME_WORDS), max_size=5).map(" ".join)


@settings(deadline=None, max_examples=200)
@given(st.lists(answer_texts.filter(normalised), min_size=1, max_size=3), answer_texts)
def test_scores_equal_torchmetrics_s(references, prediction):
    row = {"answers": [{"text": text, "start": 0} for text in references]}
    target = {"id": "1", "answers": {"text": references, "answer_start": [0] * len(references)}}
    theirs = squad([{"id": "1", "prediction_text": prediction}], [target])
    assert exact_match(row, prediction) == theirs["exact_match"].item() / 100
    assert f1(row, prediction) == pytest.approx(theirs["f1"].item() / 100)


def test_squad_2_has_separate_scores_for_questions_with_and_without_an_answer():
    rows = [row_of("great"), row_of("the cast"), row_of(), row_of()]
    scores = SQUAD_2.score(rows, [predicted("great"), predicted("cast was"), predicted(""), predicted("film")])
    assert scores == {
        "f1": pytest.approx((1 + 2 / 3 + 1 + 0) / 4),
        "exact_match": 0.5,
        "f1_with_answer": pytest.approx((1 + 2 / 3) / 2),
        "exact_match_with_answer": 0.5,
        "without_answer": 0.5,
    }


def test_the_trivial_predictor_predicts_the_first_sentence_or_no_answer():
    assert TASK.trivial_predictions([row_of("great")], [row_of("good")])[0]["text"] == "The film was good "
    assert SQUAD_2.trivial_predictions([row_of(), row_of("great")], [row_of()])[0]["text"] == ""
    chinese = row_of("电影", passage="电影很好。真的.")
    assert TASK.trivial_predictions([chinese], [chinese])[0]["text"] == "电影很好"


def test_the_confusion_distinguishes_correct_overlapping_other_and_no_answers():
    rows = [row_of("great"), row_of("the cast"), row_of("good"), row_of("good"), row_of()]
    answers = [predicted("Great."), predicted("cast was"), predicted("film"), predicted(""), predicted("film")]
    assert list(SQUAD_2.confusion(rows, answers)) == [
        ("answer", "answer"), ("answer", "overlaps"), ("answer", "other"), ("answer", "none"), ("none", "other"),
    ]  # fmt: skip


def test_models_agree_if_their_normalised_texts_are_equal():
    assert TASK.agree({}, predicted("The film"), predicted("film."))
    assert not TASK.agree({}, predicted("film"), predicted("plot"))


# Augmentation.

passages = st.lists(
    st.sampled_from(["film", "The", "was", "good", ",", "plot", "...", "great", "電影", "'s", '"a"', "U.S."]),
    min_size=3,
).map(" ".join)


@st.composite
def labelled_rows(draw):
    passage = draw(passages)
    spans = draw(st.lists(st.tuples(st.integers(0, len(passage) - 1), st.integers(1, 9)), min_size=1, max_size=3))
    texts = [(passage[start : start + size], start) for start, size in spans]
    answers = [{"text": text.strip(), "start": start + len(text) - len(text.lstrip())} for text, start in texts]
    question = draw(passages)
    return {"id": "x", "question": question, "passage": passage, "answers": [a for a in answers if a["text"]]}


@settings(deadline=None)
@given(row=labelled_rows(), seed=st.integers(0, 99))
def test_edits_leave_every_answer_unchanged_and_at_its_offset(row, seed):
    draw = random.Random(seed)
    for field, (text, spans) in TASK.replaceable_spans(row).items():
        words = [match.span() for match in re.finditer(r"\w+", text)]
        inside = [word for word in words if any(low <= word[0] and word[1] <= high for low, high in spans)]
        edits = [(*word, draw.choice(["x", "other", "longer_word"])) for word in inside if draw.random() < 0.7]
        edited = TASK.apply_edits(row, field, edits)
        assert edited[field] == splice(text, edits)
        assert [answer["text"] for answer in edited["answers"]] == [answer["text"] for answer in row["answers"]]
        for answer in edited["answers"]:
            assert edited["passage"].startswith(answer["text"], answer["start"])
        other = {"passage": "question", "question": "passage"}[field]
        assert edited[other] == row[other]


def test_words_of_an_answer_are_not_replaceable_in_the_question():
    row = row_of("great and the cast", question="Is the Cast great or good ?")
    text, spans = TASK.replaceable_spans(row)["question"]
    assert "".join(text[start:end] for start, end in spans) == "Is the   or good ?"


@pytest.mark.parametrize(
    ("answer", "question", "expected"),
    [
        ("电影院", "这家电影院好吗？", "这家好吗？"),
        ("हिन्दी", "क्या हिन्दी है ?", "क्या  है ?"),
        ("good-bad", "is good bad", "is good bad"),
    ],
)
def test_words_of_an_answer_are_found_in_a_question_in_any_language(answer, question, expected):
    text, spans = TASK.replaceable_spans(row_of(answer, passage=answer, question=question))["question"]
    assert "".join(text[start:end] for start, end in spans) == expected


def test_a_question_without_an_answer_is_replaceable_everywhere():
    for row in (row_of(), {"question": QUESTION, "passage": PASSAGE}):
        assert {name: spans for name, (_, spans) in SQUAD_2.replaceable_spans(row).items()} == {
            "passage": [(0, len(PASSAGE))],
            "question": [(0, len(QUESTION))],
        }
