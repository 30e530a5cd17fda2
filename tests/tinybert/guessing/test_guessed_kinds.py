"""Guesses of columns from small files of the kinds that users have."""

import pytest
import tiny

from pipeline.tinybert import tasks
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.guessing import kinds

SENTENCES = tiny.sentences(60, seed=0)
TEXTS = [text for text, _ in SENTENCES]


def records(**columns) -> list[dict]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def guess(rows: list[dict], kind: str | None = None, **chosen) -> tuple[str, dict]:
    kind, found = kinds.guess(rows, chosen, kind)
    return kind, found.source


def reasons(rows: list[dict], kind: str | None = None) -> str:
    return "\n".join(f"{key}: {text}" for key, text, _ in kinds.guess(rows, {}, kind)[1].reasons)


def cycle(*values) -> list:
    return [values[number % len(values)] for number in range(len(TEXTS))]


def test_each_kind_has_a_guess():
    assert set(kinds.GUESSES) == set(tasks.KINDS)


class TestTextClassification:
    def test_the_label_has_few_values_and_the_text_is_the_longest(self):
        rows = records(id=range(60), review=TEXTS, sentiment=cycle("good", "bad"))
        assert guess(rows) == ("text_classification", {"text": "review", "label": "sentiment"})
        assert "label: column 'sentiment' (2 values: good 30, bad 30)" in reasons(rows)
        assert "text: 'review' (the only texts; " in reasons(rows)

    def test_a_title_beside_a_long_text_is_left_out(self):
        titles, bodies = [f"film {number}" for number in range(60)], [f"{text} {text}" for text in TEXTS]
        rows = records(title=titles, body=bodies, label=cycle(1, 0))
        assert guess(rows)[1] == {"text": "body", "label": "label"}

    def test_two_columns_of_like_texts_are_not_chosen_between(self):
        rows = records(plot=TEXTS, review=TEXTS[::-1], label=cycle("a", "b"))
        expected = (
            "text: columns 'plot', 'review' hold texts .*: give --text COLUMN .the columns are plot, review, label"
        )
        with pytest.raises(UserError, match=expected):
            guess(rows)
        assert guess(rows, text="review")[1] == {"text": "review", "label": "label"}
        assert guess(rows, text="plot", pair="review")[1] == {"text": "plot", "pair": "review", "label": "label"}

    @pytest.mark.parametrize("names", [("sentence1", "sentence2"), ("text_a", "text_b"), ("premise", "hypothesis")])
    def test_columns_whose_names_belong_together_are_a_pair(self, names):
        rows = records(label=cycle("yes", "no"), **dict.fromkeys(names, TEXTS))
        assert guess(rows)[1] == {"text": names[0], "pair": names[1], "label": "label"}

    def test_the_column_of_groups_is_not_called_unread(self):
        rows = records(text=TEXTS, label=cycle("a", "b"), film=cycle("x y", "z"), country=cycle("fr", "us"))
        found = kinds.guess(rows, {}, None, group="film")[1].reasons
        assert [(reason.text, reason.columns) for reason in found if reason.key == "not read"] == [
            ("'country': classes, too: --label names the column that is the label", ("country",))
        ]

    def test_two_columns_of_classes_are_not_chosen_between(self):
        rows = records(review=TEXTS, genre=cycle("drama", "comedy"), country=cycle("fr", "us", "jp"))
        with pytest.raises(
            UserError, match="label: columns 'genre', 'country' hold a few different values: give --lab"
        ):
            guess(rows)
        assert guess(rows, label="genre")[1]["label"] == "genre"

    def test_of_a_column_of_numbers_and_one_of_their_names_the_names_are_chosen(self):
        rows = records(text=TEXTS, y=cycle(0, 1, 2), says=cycle("bad", "fair", "good"))
        assert guess(rows)[1]["label"] == "says"

    def test_numbers_stay_the_names_of_the_classes(self):
        rows = records(text=TEXTS, label=cycle("0", "1"))
        assert guess(rows)[1] == {"text": "text", "label": "label"}
        assert "the classes have numbers as names" in reasons(rows)

    @pytest.mark.parametrize(
        ("labels", "metric"), [(["a"] * 30 + ["b"] * 30, "accuracy"), (["a"] * 52 + ["b"] * 8, "macro_f1")]
    )
    def test_a_rare_class_asks_for_macro_f1(self, labels, metric):
        rows = records(text=TEXTS, label=labels)
        assert kinds.guess(rows, {}, None)[1].metric == metric

    @pytest.mark.parametrize(
        "names", [("ham", "go until jurong point"), ("good", "Great!"), ("1", "a film to see"), ("1", "great")]
    )
    def test_a_first_row_in_the_place_of_the_header_is_refused(self, names):
        label, text = names
        rows = records(**{label: cycle(label, "other"), text: TEXTS})
        with pytest.raises(UserError, match=f"--file: the first line looks like a row .'{text}', '{label}'., not like"):
            guess(rows)

    @pytest.mark.parametrize(
        "names", [("0", "1"), ("label", "What did you like about our product today?"), ("spam", "message")]
    )
    def test_odd_names_of_columns_are_no_rows(self, names):
        label, text = names
        for values in (("0", "1"), ("spam", "ham")):
            assert guess(records(**{text: TEXTS, label: cycle(*values)}))[1] == {"text": text, "label": label}

    @pytest.mark.parametrize("label", ["label", "topic"])
    def test_a_class_with_a_separator_in_its_name_is_one_class(self, label):
        rows = records(text=TEXTS, **{label: cycle("World", "Sports", "Business", "Sci/Tech")})
        assert guess(rows) == ("text_classification", {"text": "text", "label": label})

    def test_flags_beside_a_column_of_classes_are_not_the_labels(self):
        flags = {"verified": cycle(0, 1), "has_image": cycle(0, 0, 1), "is_reply": cycle("yes", "no")}
        rows = records(text=TEXTS, sentiment=cycle("good", "bad", "mixed"), **flags)
        assert guess(rows) == ("text_classification", {"text": "text", "label": "sentiment"})
        assert guess(rows, "multi_label")[1]["label"] == list(flags)

    def test_a_text_that_is_not_read_is_named_with_what_would_read_it(self):
        rows = records(
            title=[f"film {number}" for number in range(60)], body=[3 * text for text in TEXTS], label=cycle(1, 0)
        )
        expected = "not read: 'title' (median length 2 words): --pair 'title' reads it as a second text, --text 'title'"
        assert expected in reasons(rows)

    def test_a_label_of_too_many_values_is_not_replaced_by_another_column(self):
        rows = records(text=TEXTS, label=[f"topic {number}" for number in range(60)], channel=cycle("mail", "chat"))
        with pytest.raises(
            UserError, match="label: column 'label' has 60 different values in 60 rows, too many for cl"
        ):
            guess(rows)
        assert guess(rows, label="channel")[1]["label"] == "channel"

    @pytest.mark.parametrize("cells", [("3,4", "1,25", "2"), ("95%", "7 %", "12%")])
    def test_numbers_with_a_decimal_comma_or_a_percent_sign_are_no_classes(self, cells):
        rows = records(text=TEXTS, score=cycle(*cells))
        with pytest.raises(
            UserError, match=f"label: column 'score' has numbers such as '{cells[0]}': write them with a"
        ):
            guess(rows)

    def test_one_class_in_a_list_is_a_class(self):
        rows = records(text=TEXTS, label=cycle(["drama"], ["comedy"]))
        assert guess(rows) == ("text_classification", {"text": "text", "label": "label"})
        assert guess(rows, "multi_label")[1] == {"text": "text", "label": "label"}
        as_text = [row | {"label": str(row["label"])} for row in rows]  # which only multi_label reads
        assert guess(as_text)[0] == "multi_label"

    def test_a_row_without_a_class_in_its_list_is_left_to_the_rows(self):
        rows = records(text=TEXTS, label=[[], *cycle(["drama"], ["comedy"])[1:]])
        assert guess(rows) == ("text_classification", {"text": "text", "label": "label"})
        assert guess(records(text=TEXTS, label=cycle([], ["drama"], ["comedy"])))[0] == "multi_label"

    def test_lists_that_numpy_wrote_are_no_classes(self):
        rows = records(text=TEXTS, labels=cycle("['a' 'b']", "['a']", "['b' 'a']"))
        for kind in (None, "multi_label"):
            with pytest.raises(
                UserError, match="label: column 'labels' holds lists that cannot be read, such as .'a' 'b'"
            ):
                guess(rows, kind)

    @pytest.mark.parametrize("other", [3 * "a description of the user ", '{"a": "b c d e f g"}', "2024-01-01 12:00:00"])
    def test_the_column_of_the_name_text_is_the_text(self, other):
        rows = records(meta=[f"{other}{number}" for number in range(60)], text=TEXTS, label=cycle("a", "b"))
        assert guess(rows)[1]["text"] == "text"
        rows = records(description=[3 * text for text in TEXTS], message=cycle("auto reply"), label=cycle("a", "b"))
        assert guess(rows)[1]["text"] == "description"
        words = records(text=[f"word{number}" for number in range(60)], label=cycle("a", "b"))
        assert guess(words)[1]["text"] == "text"

    def test_times_are_no_texts(self):
        times = [f"2024-01-01 12:00:{number}" for number in range(60)]
        notes = [" ".join(text.split()[:3]) for text in TEXTS]
        assert guess(records(note=notes, created_at=times, label=cycle("a", "b")))[1]["text"] == "note"
        assert guess(records(log=[f"{time} error" for time in times], label=cycle("a", "b")))[1]["text"] == "log"

    def test_a_column_that_is_no_label_by_its_name_is_not_chosen(self):
        rows = records(text=TEXTS, tag=[f"topic {number}" for number in range(60)], annotator=cycle("anna", "ben"))
        with pytest.raises(
            UserError, match="label: only column 'annotator' holds a few different values, and its name"
        ):
            guess(rows)
        assert guess(rows, label="annotator")[1]["label"] == "annotator"

    def test_a_label_of_a_single_value_is_said(self):
        with pytest.raises(UserError, match="label: column 'label' has the same value in all rows: give --label"):
            guess(records(text=TEXTS, label=cycle("a"), channel=cycle("mail", "chat")))

    def test_a_few_cells_that_are_no_texts_are_left_to_the_rows(self):
        rows = records(text=[7, *TEXTS[1:]], label=cycle("a", "b"))
        assert guess(rows)[1] == {"text": "text", "label": "label"}

    def test_classes_that_may_be_a_scale_are_said(self):
        assert "kind: if the numbers are a scale, --kind regression" in reasons(
            records(text=TEXTS, stars=cycle(1, 2, 3))
        )


class TestRegression:
    def test_a_few_cells_that_are_no_numbers_are_left_to_the_rows(self):
        scores = ["n/a", *cycle("0.5", "3.25", "5")[1:]]
        rows = records(text=TEXTS, score=scores)
        assert guess(rows, "regression", label="score")[1] == {"text": "text", "label": "score"}
        with pytest.raises(UserError, match="label: column 'score' does not hold different numbers: give"):
            guess(records(text=TEXTS, score=cycle("3")), "regression", label="score")
        with pytest.raises(UserError, match="label: several columns, of which only multi_label reads labels"):
            guess(rows, "regression", label=["score", "text"])
        with pytest.raises(
            UserError, match="label: column 'score' does not hold different numbers: '3,4' is no number"
        ):
            guess(records(text=TEXTS, score=cycle("3,4", "1,2")), "regression", label="score")

    def test_a_few_cells_without_a_number_do_not_hide_scores(self):
        rows = records(text=TEXTS, score=["N/A", *(number / 7 for number in range(1, 60))])
        assert guess(rows) == ("regression", {"text": "text", "label": "score"})

    def test_numbers_with_fractions_are_scores(self):
        rows = records(sentence1=TEXTS, sentence2=TEXTS, score=cycle("0.5", "3.25", "5"))
        source = {"text": "sentence1", "pair": "sentence2", "label": "score"}
        assert guess(rows) == ("regression", source)
        assert "label: column 'score' (numbers from 0.5 to 5)" in reasons(rows)

    def test_grades_are_classes_unless_the_kind_is_given(self):
        rows = records(id=range(60), text=TEXTS, stars=cycle(1, 2, 3, 4, 5))
        assert guess(rows) == ("text_classification", {"text": "text", "label": "stars"})
        assert guess(rows, "regression") == ("regression", {"text": "text", "label": "stars"})

    def test_a_file_with_classes_and_scores_is_not_guessed(self):
        rows = records(text=TEXTS, sentiment=cycle("good", "bad"), score=cycle(0.1, 0.7, 0.9))
        with pytest.raises(UserError, match="--kind: the file fits regression and text_classification: give --kind"):
            guess(rows)
        assert guess(rows, label="score")[0] == "regression"
        assert guess(rows, label="sentiment")[0] == "text_classification"

    def test_a_first_row_in_the_place_of_the_header_is_refused(self):
        rows = records(**{"a film that I saw": TEXTS, "1.19": cycle("0.5", "3.25", "5")})
        with pytest.raises(UserError, match="--file: the first line looks like a row .'a film that I saw', '1.19'"):
            guess(rows, "regression")
        rows = records(**{"How did you like the film?": TEXTS, "2023": cycle("0.5", "3.25", "5")})
        assert guess(rows, "regression")[1]["label"] == "2023"

    def test_numbers_with_a_decimal_comma_are_named_whatever_their_number(self):
        rows = records(text=TEXTS, score=[f"{number},5" for number in range(60)])
        with pytest.raises(UserError, match="column 'score' has numbers such as '0,5': write them with a point"):
            guess(rows)


class TestMultiLabel:
    def test_a_column_of_lists(self):
        rows = records(text=TEXTS, labels=cycle(["sad"], [], ["sad", "long"]))
        assert guess(rows) == ("multi_label", {"text": "text", "label": "labels"})
        assert "label: column 'labels' (2 labels: sad 40, long 20)" in reasons(rows)

    @pytest.mark.parametrize("separator", ["|", ";", ", "])
    def test_a_text_with_separators(self, separator):
        rows = records(text=TEXTS, genres=cycle("drama", separator.join(["drama", "war"]), ""))
        source = {"text": "text", "label": "genres", "separator": separator.strip()}
        assert guess(rows) == ("multi_label", source)

    def test_a_separator_that_is_given_separates(self):
        rows = records(text=TEXTS, label=cycle("World", "Sci/Tech", "Sport/Film"))
        assert guess(rows, separator="/")[1]["separator"] == "/"
        assert guess(rows, "multi_label")[1]["separator"] == "/"

    def test_columns_of_0_and_1(self):
        rows = records(text=TEXTS, toxic=cycle(0, 1), threat=cycle(0, 0, 1), insult=cycle(1, 1, 0))
        assert guess(rows) == ("multi_label", {"text": "text", "label": ["toxic", "threat", "insult"]})
        assert "3 columns of 0 and 1: toxic, threat, insult" in reasons(rows)
        assert guess(rows, label=["toxic", "threat"])[1]["label"] == ["toxic", "threat"]

    def test_columns_of_0_and_1_whose_names_contain_a_word_for_labels(self):
        columns = {
            f"topic_{name}": cycle(*values)
            for name, values in {"sport": (0, 1), "world": (1, 0), "tech": (0, 0, 1)}.items()
        }
        rows = records(text=TEXTS, **columns)
        assert guess(rows) == ("multi_label", {"text": "text", "label": list(columns)})
        assert guess(rows, "multi_label", label=list(columns))[1]["label"] == list(columns)

    def test_flags_beside_classes_are_not_chosen_between(self):
        flags = {"is_retweet": cycle(0, 1), "has_url": cycle(0, 0, 1), "verified": cycle(1, 0, 0)}
        rows = records(text=TEXTS, verdict=cycle("hateful", "normal", "offensive"), **flags)
        with pytest.raises(
            UserError, match="--kind: column 'verdict' holds classes, and 'is_retweet', 'has_url', 'veri"
        ):
            guess(rows)
        assert guess(rows, label="verdict")[0] == "text_classification"
        assert guess(records(text=TEXTS, lang=cycle("en", "de"), **flags))[1]["label"] == list(flags)
        assert guess(rows, "multi_label")[1]["label"] == list(flags)

    def test_tags_of_words_that_are_nowhere_are_no_labels(self):
        rows = records(text=TEXTS, tags=cycle(["O", "B-PER"], ["O"]))
        with pytest.raises(
            UserError, match="label: column 'tags' has a tag for each word, but no column has the words"
        ):
            guess(rows)

    def test_a_column_with_one_value_is_no_label(self):
        rows = records(text=TEXTS, a=cycle(0, 1), b=cycle(0, 0, 1), c=cycle(1))
        with pytest.raises(UserError, match="label: columns 'a', 'b' hold a few different values"):
            guess(rows)

    @pytest.mark.parametrize("kind", [None, "multi_label"])
    def test_a_blank_cell_beside_1_is_a_0(self, kind):
        rows = records(text=TEXTS, a=cycle(0, 1), b=cycle(0, 0, 1), c=cycle(1, None, ""), d=cycle("x"))
        assert guess(rows, kind)[1]["label"] == ["a", "b", "c"]

    def test_columns_of_1_and_blank_beside_a_class_are_not_the_labels(self):
        rows = records(text=TEXTS, mood=cycle("x", "y"), **{name: cycle(1, "") for name in "abc"})
        assert guess(rows)[1] == {"text": "text", "label": "mood"}

    @pytest.mark.parametrize("several", [{"genres": cycle("drama, war", "drama")}, {"tags": cycle(["a"], ["a", "b"])}])
    def test_a_label_of_one_class_beside_several_labels_is_not_passed_over(self, several):
        rows = records(text=TEXTS, label=cycle("pos", "neg"), **several)
        with pytest.raises(UserError, match="--kind: column 'label' holds classes, and several labels are in '"):
            guess(rows)
        assert guess(rows, "multi_label")[1]["label"] == next(iter(several))
        assert guess(rows, label="label")[0] == "text_classification"

    @pytest.mark.parametrize(
        "cells", [["a; b", *["a"] * 59], [f"a label of {number} words or more here; b" for number in range(60)]]
    )
    def test_labels_with_the_separator_that_is_given_are_taken_as_they_are(self, cells):
        rows = records(text=TEXTS, labels=cells)
        assert guess(rows, "multi_label", label="labels", separator=";")[1]["label"] == "labels"
        with pytest.raises(UserError, match="label: column 'labels' has no lists, and not several short .*--separator"):
            guess(rows, "multi_label", label="labels")

    def test_a_few_cells_that_are_no_lists_are_left_to_the_rows(self):
        rows = records(text=TEXTS, labels=["sad", *cycle(["sad"], ["sad", "long"])[1:]])
        assert guess(rows) == ("multi_label", {"text": "text", "label": "labels"})

    def test_entities_with_offsets_are_not_labels(self):
        rows = records(text=TEXTS, label=cycle([[0, 3, "PER"]], [[4, 7, "LOC"], [0, 2, "PER"]]))
        with pytest.raises(UserError, match="label: column 'label' has lists or objects .* --entities 'label'$"):
            guess(rows, "multi_label")

    @pytest.mark.parametrize("cells", [("['sad']", "['sad', 'long']", ""), ('["sad"]', '["sad", "long"]', "[]")])
    def test_lists_written_as_text(self, cells):
        rows = records(text=TEXTS, labels=cycle(*cells))
        assert guess(rows) == ("multi_label", {"text": "text", "label": "labels"})
        assert "label: column 'labels' (2 labels: sad 40, long 20)" in reasons(rows)


class TestNamedEntities:
    WORDS = cycle(["Ada", "Lovelace", "was", "in", "London"], ["It", "rains"])

    @pytest.mark.parametrize(
        "cells",
        [
            ([[0, 3, "PER"]], [], [[4, 7, "LOC"], [0, 2, "PER"]]),
            ('[[0, 3, "PER"]]', "", '[[4, 7, "LOC"], [0, 2, "PER"]]'),
            ([{"start": 0, "end": 3, "labels": ["PER"]}], None, [{"start": 0, "end": 2, "labels": ["LOC"]}] * 2),
        ],
    )
    def test_offsets_of_entities_in_a_text(self, cells):
        rows = records(id=range(60), text=TEXTS, label=cycle(*cells))
        expected = "named_entities", {"text": "text", "entities": "label"}
        assert guess(rows) == guess(rows, "named_entities") == expected
        assert guess(rows, text="text", entities="label") == expected
        assert "entities: column 'label' (60 entities by their characters: " in reasons(rows)

    def test_the_text_whose_characters_are_counted_is_not_guessed_from_several(self):
        cells = cycle([[0, 3, "PER"]], [])
        with pytest.raises(UserError, match="text: columns '.*' hold texts: give --text COLUMN"):
            guess(records(title=TEXTS, body=TEXTS[::-1], label=cells))
        assert guess(records(title=TEXTS, text=TEXTS[::-1], label=cells))[1]["text"] == "text"

    def test_three_numbers_are_no_entity(self):
        rows = records(text=TEXTS, box=cycle([[1, 2, 3]], [[2, 5, 6]]), label=cycle("a", "b"))
        assert guess(rows)[0] == "text_classification"

    def test_empty_lists_are_no_answers(self):
        rows = records(text=TEXTS, relations=cycle([]), label=cycle([[0, 3, "PER"]], []))
        assert guess(rows)[0] == "named_entities"

    def test_what_is_not_read_beside_entities_is_said(self):
        rows = records(text=TEXTS, spans=cycle([[0, 3, "PER"]], []), mood=cycle("good", "bad"))
        assert "not read: 'mood': --kind reads classes instead" in reasons(rows)

    def test_the_full_export_of_label_studio_is_named(self):
        rows = records(id=range(60), data=[{"text": text} for text in TEXTS], annotations=[[{"result": []}]] * 60)
        for kind in (None, "named_entities"):
            with pytest.raises(UserError, match="^--file: this is Label Studio's full export: export as JSON-MIN"):
                guess(rows, kind)
        assert guess(records(data=TEXTS, annotations=cycle("a", "b")))[0] == "text_classification"

    def test_a_column_without_offsets_is_not_taken_for_entities(self):
        rows = records(text=TEXTS, label=cycle("a", "b"))
        with pytest.raises(UserError, match="entities: column 'label': expected a list of entities, found 'a'"):
            guess(rows, "named_entities", entities="label")

    def test_a_column_that_is_named_may_have_invalid_entities(self):
        rows = records(text=TEXTS, label=cycle([[0, 3, "PER"]], [[0, 3, None]], []))
        assert guess(rows, "named_entities", entities="label")[1] == {"text": "text", "entities": "label"}
        rows = records(text=TEXTS, label=cycle([["PER", 0, 3]], []))
        with pytest.raises(UserError, match=r"entity 1 is \['PER', 0, 3\]: expected \[start, end, type\]"):
            guess(rows, "named_entities", entities="label")

    def test_lists_of_words_and_of_tags(self):
        tags = cycle(["B-PER", "I-PER", "O", "O", "B-LOC"], ["O", "O"])
        pos = cycle(["NNP", "NNP", "VBD", "IN", "NNP"], ["PRP", "VBZ"])
        rows = records(id=range(60), tokens=self.WORDS, pos_tags=pos, ner_tags=tags)
        assert guess(rows) == ("named_entities", {"words": "tokens", "tags": "ner_tags", "scheme": "IOB2"})
        assert "tags: column 'ner_tags' (2 types: PER 30, LOC 30)" in reasons(rows)
        as_text = records(id=range(60), tokens=[*map(str, self.WORDS)], ner_tags=[*map(str, tags)])
        assert guess(as_text) == guess(rows)

    @pytest.mark.parametrize("as_text", [str, " ".join], ids=["a list as text", "blanks between tags"])
    def test_a_text_with_as_many_words_as_tags_holds_the_words(self, as_text):
        tags = cycle(["B-PER", "I-PER", "O", "O", "B-LOC"], ["O", "O"])
        rows = records(number=range(60), sentence=[*map(" ".join, self.WORDS)], tag=[*map(as_text, tags)])
        expected = "named_entities", {"words": "sentence", "tags": "tag", "scheme": "IOB2"}
        assert guess(rows) == guess(rows, "named_entities", words="sentence", tags="tag") == expected

    def test_types_without_b_and_i_get_names_of_tags(self):
        rows = [{1: ["Ada", "Lovelace", "was", "in", "London"], 2: ["PER", "PER", "O", "O", "LOC"]}] * 60
        rows += [{1: ["It", "rains"], 2: ["O", "O"]}] * 60
        kind, source = guess(rows)
        labels = {"O": "O", "I-LOC": "LOC", "I-PER": "PER"}
        assert (kind, source) == ("named_entities", {"words": 1, "tags": 2, "scheme": "IOB1", "labels": labels})

    def test_columns_without_names_are_the_first_and_the_last(self):
        chunks = cycle(["B-NP", "I-NP", "B-VP", "B-PP", "B-NP"], ["B-NP", "B-VP"])
        tags = cycle(["B-PER", "I-PER", "O", "O", "B-LOC"], ["O", "O"])
        rows = [dict(enumerate(row, 1)) for row in zip(self.WORDS, chunks, tags, strict=True)]
        assert guess(rows) == ("named_entities", {"words": 1, "tags": 3, "scheme": "IOB2"})

    @pytest.mark.parametrize("numbers", [["s0"] * 5, ["1", "2", "3", "4-5", "6"]])
    def test_a_column_that_names_the_sentence_or_numbers_its_words_holds_no_words(self, numbers):
        tags = ["B-PER", "I-PER", "O", "O", "B-LOC"]
        number = cycle(["s1"] * 2 if numbers[0] == "s0" else ["1", "2"])
        several = [numbers if len(words) == 5 else other for words, other in zip(self.WORDS, number, strict=True)]
        tagged = [tags if len(words) == 5 else ["O", "O"] for words in self.WORDS]
        rows = [dict(enumerate(row, 1)) for row in zip(several, self.WORDS, tagged, strict=True)]
        assert guess(rows)[1] == {"words": 2, "tags": 3, "scheme": "IOB2"}
        assert "words: column 2 (Ada Lovelace was in London …)" in reasons(rows)

    def test_sentences_of_one_word_are_sentences(self):
        rows = records(tokens=cycle(["Ada"], ["rains"]), tags=cycle(["B-PER"], ["O"]))
        assert guess(rows)[0] == "named_entities"

    def test_phrases_behind_the_entities_are_not_the_tags(self):
        chunks = cycle(["B-NP", "I-NP", "B-VP", "B-PP", "B-NP"], ["B-NP", "B-VP"])
        tags = cycle(["B-PER", "I-PER", "O", "O", "B-LOC"], ["O", "O"])
        rows = [dict(enumerate(row, 1)) for row in zip(self.WORDS, tags, chunks, strict=True)]
        assert guess(rows)[1]["tags"] == 2

    def test_a_few_cells_that_are_no_lists_are_left_to_the_rows(self):
        tags = [None, *cycle(["O", "O"], ["B-PER", "I-PER", "O", "O", "B-LOC"])[1:]]
        words = [["It", "rains"], *(["Ada", "Lovelace", "was", "in", "London"] if len(t) == 5 else ["It", "rains"]
                 for t in tags[1:])]  # fmt: skip
        assert guess(records(tokens=words, ner_tags=tags))[1]["tags"] == "ner_tags"
        entities = [[{"start": 0}], *cycle([[0, 3, "PER"]], [])[1:]]
        assert guess(records(text=TEXTS, label=entities)) == (
            "named_entities",
            {"text": "text", "entities": "label"},
        )

    @pytest.mark.parametrize(
        ("tags", "scheme"),
        [
            (["B-PER", "I-PER", "O", "O", "B-LOC"], "IOB2"),
            (["I-PER", "I-PER", "O", "O", "I-LOC"], "IOB1"),
            (["B-PER", "E-PER", "O", "O", "S-LOC"], "BIOES"),
            (["B-PER", "L-PER", "O", "O", "U-LOC"], "BIOES"),
        ],
    )
    def test_the_scheme_is_the_one_that_most_sentences_follow(self, tags, scheme):
        rows = records(words=self.WORDS, tags=cycle(tags, ["O", "O"]))
        assert guess(rows)[1]["scheme"] == scheme

    def test_inside_tags_alone_show_their_types(self):
        rows = records(words=self.WORDS, tags=cycle(["I-PER", "I-PER", "O", "O", "I-LOC"], ["O", "O"]))
        assert "(2 types: PER 30, LOC 30)" in reasons(rows)

    def test_a_wrong_tag_is_left_to_the_rows(self):
        tags = [["I-PER", "I-PER", "O", "0", "I-LOC"], *cycle(["O", "O"], ["I-PER", "I-PER", "O", "O", "I-LOC"])[1:]]
        words = [["It", "rains"] if len(row) == 2 else ["Ada", "Lovelace", "was", "in", "London"] for row in tags]
        rows = [dict(enumerate(row, 1)) for row in zip(words, tags, strict=True)]
        assert guess(rows)[1] == {"words": 1, "tags": 2, "scheme": "IOB1"}
        assert f"{len(rows) - 1} of {len(rows)} sentences follow it" in reasons(rows)

    def test_a_list_that_is_always_empty_has_no_tags(self):
        assert guess(records(text=TEXTS, labels=cycle(["a"], ["b"]), comments=cycle([])))[0] == "multi_label"

    def test_one_tag_in_each_row_is_refused_with_the_form_that_is_read(self):
        rows = records(sentence=TEXTS, word=cycle("Ada", "was"), tag=cycle("B-PER", "O"))
        with pytest.raises(UserError, match="tags: column 'tag' has one tag in each row: write a .conll file"):
            guess(rows)

    def test_a_wrong_tag_does_not_turn_tags_into_classes(self):
        rows = records(sentence=TEXTS, word=cycle("Ada", "was"), tag=["0", *cycle("B-PER", "O")[1:]])
        with pytest.raises(UserError, match="tags: column 'tag' has one tag in each row: write a .conll file"):
            guess(rows)

    @pytest.mark.parametrize(("tags", "odd"), [(["B_PER", "O"], "'B_PER'"), (["O", "O"], "only 'O'")])
    def test_the_first_odd_tag_of_a_conll_file_is_named(self, tags, odd):
        rows = [{1: ["Ada", "was"], 2: tags}] * 60
        with pytest.raises(UserError, match=f"tags: the last column has {odd}: expected O, B-TYPE and I-TYPE"):
            guess(rows)

    def test_numbers_are_no_tags(self):
        rows = records(tokens=self.WORDS, ner_tags=cycle([1, 2, 0, 0, 3], [0, 0]))
        with pytest.raises(UserError, match="tags: no column holds lists of tags .O, B-TYPE, I-TYPE; numbers need"):
            guess(rows, "named_entities")


class TestQuestionAnswering:
    @pytest.mark.parametrize("unanswerable", [False, True])
    def test_answers_have_their_place(self, unanswerable):
        answers = cycle(
            [{"text": "The", "answer_start": 0}], [] if unanswerable else [{"text": "T", "answer_start": 0}]
        )
        questions = [f"is it film {number}" for number in range(60)]
        rows = records(id=range(60), question=questions, context=TEXTS, answers=answers)
        kind, found = kinds.guess(rows, {}, None)
        assert kind == "question_answering"
        assert found.source == {"question": "question", "passage": "context", "answers": "answers"}
        assert found.options == ({"unanswerable": True} if unanswerable else None)

    def test_answers_of_null_are_none_and_a_few_bad_ones_are_left_to_the_rows(self):
        some = {"text": ["The"], "answer_start": [0]}
        cells = [None, *cycle(some, {"text": None, "answer_start": None})[1:]]
        rows = records(question=[f"is it film {number}" for number in range(60)], context=TEXTS, answers=cells)
        assert "unanswerable: true (31 questions have no answer)" in reasons(rows)
        empty = [
            [{"text": "", "answer_start": -1}],
            {"text": [""], "answer_start": [-1]},
            {"text": "", "answer_start": -1},
            some,
        ]
        many = records(question=[row["question"] for row in rows], context=TEXTS, answers=cycle(*empty))
        assert "unanswerable: true (45 questions have no answer)" in reasons(many)
        as_text = [row | {"answers": str(row["answers"])} for row in rows]
        assert guess(as_text)[0] == "question_answering"

    def test_lists_that_are_mostly_empty_are_no_answers(self):
        spans = [*[[]] * 55, *[[{"start": 0, "end": 3, "label": "PER"}]] * 5]
        rows = records(query=TEXTS, document=TEXTS[::-1], spans=spans)
        with pytest.raises(UserError, match="answers: no column holds answers"):
            guess(rows, "question_answering")

    def test_a_question_may_be_in_two_columns(self):
        rows = records(
            title=TEXTS,
            question=[f"is it film {number}" for number in range(60)],
            context=TEXTS,
            answers=cycle([{"text": "The", "answer_start": 0}]),
        )
        assert guess(rows, question=["title", "question"])[1]["question"] == ["title", "question"]

    def test_answers_without_their_place_are_refused(self):
        rows = records(
            question=[f"is it film {number}" for number in range(60)], context=TEXTS, answer=cycle("The", "A")
        )
        with pytest.raises(UserError, match="answers: the file has questions and passages, but no column with answers"):
            guess(rows)


def test_a_file_of_no_kind_is_refused_with_its_columns():
    with pytest.raises(UserError, match="the file fits no kind of task .the columns are id, text.: give --kind"):
        guess(records(id=range(60), text=TEXTS))
