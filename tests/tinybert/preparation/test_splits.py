import json
import re
from collections import Counter

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings as params
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Source, Text
from pipeline.tinybert.preparation import drawn_splits, splits

pytestmark = pytest.mark.usefixtures("files_anywhere")

KEY = "tasks.tiny.source"
TASK = tiny.task([])


def rows_of(labels: list[str], split: str = "train", start: int = 0) -> list[dict]:
    numbered = enumerate(labels)
    return [{"id": f"{split}-{number}", "text": f"text {start + number}", "label": label} for number, label in numbered]


def balanced(count: int, classes: int = 2) -> list[dict]:
    return rows_of([f"class {number % classes}" for number in range(count)])


def texts(rows: list[dict]) -> list[str]:
    return [row["text"] for row in rows]


def read(folder, content, **source) -> splits.Parts:
    """Read a source made of ``content``: the records of one file, or file name → records."""
    files = content if isinstance(content, dict) else {"rows.jsonl": content}
    for name, records in files.items():
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    location = folder if isinstance(content, dict) else folder / "rows.jsonl"
    parts = splits.read(TASK, Source(location=str(location), **source), KEY).parts
    return {name: [{key: row[key] for key in row if key != "where"} for row in rows] for name, rows in parts.items()}


# Reading.


def test_a_source_without_splits_gives_numbered_rows_for_training(tmp_path):
    parts = read(tmp_path, [{"text": " a film ", "label": 1, "other": 5}, {"text": "a plot", "label": 0}])
    assert parts == {
        "train": [{"id": "train-0", "text": "a film", "label": "1"}, {"id": "train-1", "text": "a plot", "label": "0"}]
    }


def test_given_splits_stay_and_missing_ones_are_split_off_train(tmp_path):
    files = {"a.jsonl": balanced(8), "b.jsonl": rows_of(["class 0", "class 1"], start=20)}
    parts = read(tmp_path, files, splits={"train": "a.jsonl", "test": "b.jsonl"})
    assert [row["id"] for row in parts["test"]] == ["test-0", "test-1"]
    complete = drawn_splits.split_off_missing(TASK, parts, test=0.5, validation=0.25, seed=1, key=KEY)
    assert complete["test"] == parts["test"]
    assert {name: len(part) for name, part in complete.items()} == {"train": 6, "validation": 2, "test": 2}


def test_splits_without_train_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"^tasks.tiny.source.splits: no 'train' \(it has: test\)"):
        read(tmp_path, {"b.jsonl": balanced(2)}, splits={"test": "b.jsonl"})


def test_a_column_names_the_split_of_each_row(tmp_path):
    """Rows that the user keeps for a test must not be trained on."""
    names = ["train", "Train", " dev", "test", "train"]
    records = [{**row, "part": name} for row, name in zip(balanced(5), names, strict=True)]
    parts = read(tmp_path, records, split_column="part")
    assert {name: texts(rows) for name, rows in parts.items()} == {
        "train": ["text 0", "text 1", "text 4"],
        "validation": ["text 2"],
        "test": ["text 3"],
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["train", "holdout"],
            "split_column: rows.jsonl, line 2: column 'part': expected train, validation or test, found",
        ),
        (["train", None], "split_column: rows.jsonl, line 2: column 'part': expected train, validation or test, found"),
        (["dev", "test"], r"split_column: no 'train' \(it has: validation, test\)"),
    ],
)
def test_a_column_with_other_names_of_splits_is_refused(tmp_path, names, expected):
    records = [{**row, "part": name} for row, name in zip(balanced(2), names, strict=True)]
    with pytest.raises(UserError, match=f"^{KEY}.{expected}"):
        read(tmp_path, records, split_column="part")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"text": "", "label": 1}, f"{KEY}: rows.jsonl, line 2: column 'text': empty text"),
        ({"text": " \n", "label": 1}, f"{KEY}: rows.jsonl, line 2: column 'text': empty text"),
        ({"label": 1}, f"{KEY}: rows.jsonl, line 2: column 'text': empty text"),
        ({"text": "film"}, f"{KEY}: rows.jsonl, line 2: column 'label': no label"),
        ({"text": "film", "label": None}, f"{KEY}: rows.jsonl, line 2: column 'label': no label"),
        ({"text": "film", "label": " "}, f"{KEY}: rows.jsonl, line 2: column 'label': no label"),
        ({"text": "film", "label": 2}, f"{KEY}: rows.jsonl, line 2: label '2' is not in the source's `labels` (0, 1)"),
    ],
)
def test_a_bad_row_is_reported_with_its_file_and_line(tmp_path, record, expected):
    good = {"text": "good", "label": 1}
    with pytest.raises(UserError) as raised:
        read(tmp_path, [good, record, good], labels={"negative": 0, "positive": 1})
    advice = f": correct or remove these rows, or set {KEY}.bad_rows: drop, which leaves them out and counts them"
    assert str(raised.value) == expected + advice


def test_bad_rows_are_dropped_on_request_and_counted_by_kind(tmp_path, capsys):
    good = [{"text": f"good {number}", "label": 1} for number in range(5)]
    bad = [{"text": "", "label": 1}, {"text": " ", "label": 0}, {"text": "film"}, {"text": "film", "label": "?"}]
    parts = read(tmp_path, [*good, *bad], bad_rows="drop", labels={"negative": 0, "positive": 1})
    assert [row["text"] for row in parts["train"]] == [row["text"] for row in good]
    said = capsys.readouterr().out
    assert "rows.jsonl, line 6: column 'text': empty text" in said
    assert (
        "train: 4 of 9 rows are invalid and dropped (`bad_rows: drop`): 2 × column 'text': empty text;"
        " 1 × column 'label': no label; 1 × label '?' is not in the source's `labels` (0, 1)" in said
    )


@pytest.mark.parametrize(
    ("kind", "good", "bad", "reason"),
    [
        ("regression", {"text": "film", "label": 2.5}, {"text": "film", "label": "many"}, "many"),
        ("multi_label", {"text": "film", "label": ["a"]}, {"text": "", "label": ["a"]}, "empty text"),
        ("named_entities", {"words": ["A"], "tags": ["B-x"]}, {"words": ["A", "b"], "tags": ["O"]}, "2 words"),
        (
            "question_answering",
            {"question": "Who?", "context": "She did.", "answers": [{"text": "She", "answer_start": 0}]},
            {"question": "Who?", "context": "She did.", "answers": [{"text": "He", "answer_start": 0}]},
            "He",
        ),
    ],
)
def test_bad_rows_of_every_kind_are_dropped_on_request(tmp_path, capsys, kind, good, bad, reason):
    task = tasks.KINDS[kind]("f1", 64, tasks.KINDS[kind].Options())
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in (good, bad, good)))
    (rows,) = splits.read(task, Source(location=str(path), bad_rows="drop"), KEY).parts.values()
    said = capsys.readouterr().out
    assert len(rows) == 2 and "train: 1 of 3 rows are invalid and dropped" in said and reason in said


def test_a_list_under_where_means_one_of_its_values(tmp_path):
    records = [{"text": f"{value}", "label": 1, "language": value} for value in ("en", "de", "fr", "en")]
    parts = read(tmp_path, records, where={"language": ["en", "de"]})
    assert texts(parts["train"]) == ["en", "de", "en"]


def test_dropped_rows_of_test_are_said_loudly(tmp_path, capsys):
    rows = [{"text": f"good {number}", "label": 1} for number in range(5)]
    files = {"a.jsonl": rows, "b.jsonl": [*rows, {"text": "", "label": 1}]}
    read(tmp_path, files, splits={"train": "a.jsonl", "test": "b.jsonl"}, bad_rows="drop")
    assert "test: DOUBTFUL: scores are on the 5 valid rows" in capsys.readouterr().out


def test_if_most_rows_are_bad_they_are_not_dropped(tmp_path):
    with pytest.raises(UserError, match="2 of 3 rows are invalid.*too many to drop .*is a column or a setting wrong"):
        read(tmp_path, [{"text": "good", "label": 1}, {"text": "", "label": 1}, {"text": "a"}], bad_rows="drop")


def test_several_columns_are_joined_into_one_text(tmp_path):
    rows = [{"subject": " A film ", "body": "It is good.", "label": 1}, {"subject": "", "body": "Bad.", "label": 0}]
    parts = read(tmp_path, [*rows, {"body": "So so.", "label": 0}], text=["subject", "body"])
    assert texts(parts["train"]) == ["A film\nIt is good.", "Bad.", "So so."]
    with pytest.raises(UserError, match="line 1: columns 'subject', 'body': empty text"):
        read(tmp_path, [{"subject": " ", "body": None, "label": 1}], text=["subject", "body"])


def test_unlabelled_texts_are_joined_like_those_of_train_and_dropped_if_they_are_in_a_split(tmp_path):
    rows = [{"subject": "A film", "body": "It is good."}, {"subject": "", "body": "Bad."}, {"body": "New."}]
    path = tmp_path / "more.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ["subject", "body"]
    parts = read(tmp_path, [{**rows[0], "label": 1}, {"subject": "x", "body": "y", "label": 0}], text=columns)
    text = Text(location=str(path), text=columns, limit=9)
    found = splits.read_unlabelled(TASK, tiny.task_settings().source, text, parts, 1, "tasks.tiny.unlabelled")
    assert sorted(texts(found)) == ["Bad.", "New."]


# Duplicates.


def part(*rows: tuple[str, str], split: str) -> list[dict]:
    return [
        {"id": f"{split}-{n}", "text": text, "label": label, "where": f"{split}, line {n}"}
        for n, (text, label) in enumerate(rows)
    ]


def test_duplicates_are_dropped_and_logged(capsys):
    parts = {
        "train": part(
            ("a", "x"), ("b", "x"), ("a", "y"), ("c", "x"), ("d", "y"), ("a", "x"), ("f", "y"), split="train"
        ),
        "validation": part(("c", "x"), ("e", "y"), split="validation"),
        "test": part(("d", "x"), ("c", "y"), ("d", "x"), split="test"),
    }
    unique = splits.drop_duplicates(TASK, parts, {"hard": part(("f", "x"), split="hard")})
    assert {name: texts(rows) for name, rows in unique.items()} == {
        "train": ["a", "b"],
        "validation": ["e"],
        "test": ["d", "c", "d"],
    }
    assert list(unique) == ["train", "validation", "test"]
    assert unique["train"][0]["label"] == "x"
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "train: 1 duplicate rows dropped: their text is also in hard; 1 of them have another label there: train,"
        " line 6",
        "train: 2 duplicate rows dropped: their text is also in test; 2 of them have another label there: train,"
        " line 3; train, line 4",
        "train: 2 duplicate rows dropped: their text occurs earlier; 1 of them have another label there: train, line 2",
        "validation: 1 duplicate rows dropped: their text is also in test; 1 of them have another label there:"
        " validation, line 0",
    ]


named = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xy")))


@settings(deadline=None)
@given(named, named, named)
def test_after_deduplication_train_and_validation_share_no_text_and_no_text_is_lost(train, validation, test):
    given_parts = {"train": train, "validation": validation, "test": test}
    parts = {name: part(*rows, split=name) for name, rows in given_parts.items()}
    unique = splits.drop_duplicates(TASK, parts, {})
    assert unique["test"] == parts["test"]
    seen = [*texts(unique["train"]), *texts(unique["validation"]), *set(texts(unique["test"]))]
    assert sorted(seen) == sorted({text for rows in given_parts.values() for text, _ in rows})


# Splitting.


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(15, 60), min_size=2, max_size=4), st.sampled_from([0.1, 0.2, 0.3]), st.integers(0, 99))
def test_splits_are_stratified_by_class(counts, test, seed):
    labels = [f"class {number}" for number, count in enumerate(counts) for _ in range(count)]
    parts = drawn_splits.split_off_missing(TASK, {"train": rows_of(labels)}, test, 0.2, seed, KEY)
    assert {name: len(rows) for name, rows in parts.items()} == {
        "train": len(labels) - round(test * len(labels)) - round(0.2 * len(labels)),
        "validation": round(0.2 * len(labels)),
        "test": round(test * len(labels)),
    }
    assert list(parts) == ["train", "validation", "test"]
    assert sorted(row["id"] for rows in parts.values() for row in rows) == sorted(row["id"] for row in rows_of(labels))
    for share, rows in [(test, parts["test"]), (0.2, parts["validation"])]:
        for label, count in Counter(row["label"] for row in rows).items():
            assert abs(count - share * labels.count(label)) < 2


def test_the_seed_determines_the_split():
    one, again, other = (
        drawn_splits.split_off_missing(TASK, {"train": balanced(60)}, 0.2, 0.1, seed, KEY) for seed in (1, 1, 2)
    )
    assert one == again
    assert one["test"] != other["test"] and one["validation"] != other["validation"]


def test_rows_keep_the_order_of_the_source():
    for rows in drawn_splits.split_off_missing(TASK, {"train": balanced(60)}, 0.2, 0.1, 1, KEY).values():
        numbers = [int(row["id"].removeprefix("train-")) for row in rows]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("labels", "test", "validation", "expected"),
    [
        ("", 0.2, 0.2, "no row is left for train"),
        ("xy" * 4, 0.1, 0.2, "8 rows: too few to split off test and validation: bring 10 or more"),
        ("abcdefghijkl", 0.2, 0.1, "12 rows, no two of them with the same label"),
        ("xy" * 10, 0.5, 0.5, r"prepare.test \+ prepare.validation = 1.0: nothing is left for train"),
    ],
)
def test_too_few_rows_for_a_split_are_refused_with_advice(labels, test, validation, expected):
    with pytest.raises(UserError, match=expected):
        drawn_splits.split_off_missing(TASK, {"train": with_lines(rows_of(list(labels)))}, test, validation, 1, KEY)


def with_lines(rows: list[dict]) -> list[dict]:
    return [{**row, "where": f"rows.csv, line {number}"} for number, row in enumerate(rows, 2)]


def counts_of(parts: splits.Parts) -> dict[str, Counter]:
    return {name: Counter(label for row in rows for label in TASK.labels_in(row)) for name, rows in parts.items()}


def complete(labels: list[str], task=TASK) -> splits.Parts:
    """All three splits of rows with these labels."""
    parts = drawn_splits.split_off_missing(task, {"train": with_lines(rows_of(labels))}, 0.2, 0.1, 1, KEY)
    return drawn_splits.cover_labels(task, parts, ["test", "validation"], KEY)


@pytest.mark.parametrize(
    ("rare", "expected"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (7, (5, 1, 1)), (8, (5, 1, 2))]
)
def test_a_rare_class_is_in_train_then_in_test_then_in_each_split(rare, expected):
    counts = counts_of(complete(["x"] * 60 + ["rare"] * rare))
    assert tuple(counts[name]["rare"] for name in ("train", "validation", "test")) == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("xxxxyyz"), min_size=10, max_size=60))
def test_ten_rows_of_two_classes_are_split(labels):
    parts = complete([*labels, "x", "x", "y"])
    assert sum(map(len, parts.values())) == len(labels) + 3
    assert all(parts.values())
    assert set(counts_of(parts)["train"]) == {*labels, "x", "y"}


def test_rare_classes_are_named_with_their_lines_and_the_class_that_may_be_meant(capsys):
    complete([*["Billing", "Refund"] * 80, "biling", "Other", "Other"])
    assert capsys.readouterr().out.endswith(
        "DOUBTFUL: 2 labels have too few rows for each split, and scores say little of them: 'biling' in 1 (rows.csv,"
        " line 162; did you mean 'Billing'?), none in test and validation; 'Other' in 2 (rows.csv, line 163; rows.csv,"
        " line 164), none in validation\n"
    )


def test_labels_that_only_a_drawn_split_has_move_to_train():
    task = tiny.task([], "micro_f1", kind="multi_label")
    labels = [[f"label {number % 3}"] for number in range(40)]
    for number in range(40):  # wherever the only row of a label is
        marked = [[*found, "rare"] if at == number else found for at, found in enumerate(labels)]
        parts = complete(marked, task)
        assert any("rare" in row["label"] for row in parts["train"])
        assert sum(map(len, parts.values())) == 40 and all(parts.values())


def test_a_label_of_its_own_in_each_row_asks_for_the_column():
    rows = with_lines(rows_of([f"text {number}" for number in range(368)]))
    expected = r"There are 368 different labels in 368 rows: is `label` the right column\?$"
    with pytest.raises(UserError, match=expected):
        drawn_splits.split_off_missing(TASK, {"train": rows}, 0.2, 0.1, 1, KEY)
    with pytest.raises(UserError, match="train has text 0, text 1, .*, and 358 more: .*There are 368 different labels"):
        splits.check_labels(TASK, {"train": rows, "test": with_lines(rows_of(["odd"]))}, Source(location="x"), KEY)


# Labels.


def test_a_label_that_is_not_in_train_is_refused_with_advice_or_its_rows_are_dropped(capsys):
    parts = {"train": rows_of(["good", "bad"]), "test": with_lines(rows_of(["bad", "odd"]))}
    expected = (
        rf"^{KEY}: test has labels that no row of train has: 'odd' \(rows.csv, line 3\); train has bad, good: correct"
    )
    with pytest.raises(UserError, match=expected):
        splits.check_labels(TASK, parts, Source(location="x"), KEY)
    checked = splits.check_labels(TASK, parts, Source(location="x", bad_rows="drop"), KEY)
    assert [row["label"] for row in checked["test"]] == ["bad"]
    said = capsys.readouterr().out
    assert "test: 1 of 2 rows are invalid and dropped" in said and "test: DOUBTFUL" in said


def test_the_label_that_may_be_meant_is_named():
    parts = {"train": rows_of(["Positive", "negative"]), "test": with_lines(rows_of(["positve", "neutral"]))}
    with pytest.raises(
        UserError, match="'neutral' .rows.csv, line 3.; 'positve' .rows.csv, line 2; did you mean 'Positive'"
    ):
        splits.check_labels(TASK, parts, Source(location="x", splits={"train": "a", "test": "b"}), KEY)


@pytest.mark.parametrize(
    ("kind", "metric", "train", "other", "found"),
    [
        ("text_classification", "accuracy", ["good", "bad"], ["bad", "bad"], "the label 'bad'"),
        ("regression", "pearson", [1.0, 2.0], [2.0, 2.0], "the label 2.0"),
        ("multi_label", "micro_f1", [["a"], ["b"]], [[], []], "no label"),
        ("multi_label", "micro_f1", [["a"], ["b"]], [["a"], ["a"]], r"the label \['a'\]"),
    ],
)
def test_a_validation_without_variety_is_refused_and_a_test_set_is_logged(kind, metric, train, other, found, capsys):
    task = tiny.task([], metric, kind=kind)
    expected = f"{KEY}: all 2 rows of {{}} have {found}, so scores on them say nothing"
    with pytest.raises(UserError, match=f"^{expected.format('validation')}, and cannot select a model: add rows with"):
        splits.check_variety(task, {"train": rows_of(train), "validation": rows_of(other)}, [], KEY)
    splits.check_variety(task, {"train": rows_of(train), "validation": rows_of(train), "test": rows_of(other)}, [], KEY)
    assert re.fullmatch(f"DOUBTFUL: {expected.format('test')}\n", capsys.readouterr().out)
    splits.check_variety(task, {"train": rows_of(train), "validation": rows_of(other)}, ["validation"], KEY)
    assert capsys.readouterr().out.startswith("DOUBTFUL: ")  # of a split drawn by chance


@pytest.mark.parametrize("empty", ["train", "validation"])
def test_a_split_of_which_duplicates_leave_no_row_is_refused(empty):
    parts = {"train": rows_of(["good", "bad"] * 9), "validation": rows_of(["good"]), empty: []}
    with pytest.raises(UserError, match=f"^{KEY}: no row is left for {empty}: each of its texts is also in another"):
        drawn_splits.split_off_missing(tiny.task([]), parts, 0.2, 0.1, 1, KEY)


@pytest.mark.parametrize("drawn", [[], ["validation"]])
def test_a_validation_or_test_of_one_row_is_doubtful(drawn, capsys):
    task, one = tiny.task([]), rows_of(["good"])
    splits.check_variety(task, {"train": rows_of(["good", "bad"]), "validation": one, "test": one}, drawn, KEY)
    assert capsys.readouterr().out.splitlines() == [
        f"DOUBTFUL: {KEY}: {split} has a single row, so scores on it say nothing: bring more"
        for split in ("validation", "test")
    ]


def test_sentences_with_equal_tags_tell_models_apart_unless_they_have_no_entity():
    task = tiny.task([], "f1", kind="named_entities")
    rows = [{"id": str(number), "words": [f"film{number}"], "tags": ["B-film"]} for number in range(2)]
    splits.check_variety(task, {"train": rows, "validation": rows}, [], KEY)
    none = [{**row, "tags": ["O"]} for row in rows]
    with pytest.raises(UserError, match="all 2 rows of validation have no label"):
        splits.check_variety(task, {"train": rows, "validation": none}, [], KEY)


# Groups.


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=20, max_size=40), st.integers(0, 99))
def test_a_group_is_never_divided_between_splits(sizes, seed):
    groups = [f"film {number}" for number, size in enumerate(sizes) for _ in range(size)]
    rows = [{**row, "group": group} for row, group in zip(balanced(len(groups)), groups, strict=True)]
    parts = drawn_splits.split_off_missing(TASK, {"train": rows}, 0.2, 0.1, seed, KEY)
    group_of = {row["id"]: row["group"] for row in rows}
    sides = [{group_of[row["id"]] for row in part} for part in parts.values()]
    assert sum(len(side) for side in sides) == len(sizes)
    assert sum(len(part) for part in parts.values()) == len(rows)
    assert all(sides)


def test_the_group_column_is_read(tmp_path):
    parts = read(tmp_path, [{"text": "film", "label": 1, "title": 7}], group="title")
    assert parts["train"] == [{"id": "train-0", "text": "film", "label": "1", "group": "7"}]


def test_groups_shared_by_given_splits_are_logged(capsys):
    """Given splits are only reported, not changed: their authors may have had reasons."""

    def of(*groups: str) -> list[dict]:
        return [{**row, "group": group} for row, group in zip(balanced(len(groups)), groups, strict=True)]

    splits.log_shared_groups(TASK, {"train": of("a", "b", "c"), "validation": of("b", "c", "d"), "test": of("e")})
    splits.log_shared_groups(TASK, {"train": balanced(4), "test": balanced(4)})
    assert capsys.readouterr().out == (
        "validation: 2 of its 3 groups are also in train: scores on it may be too high\n"
    )


def grouped(sizes: list[int]) -> list[dict]:
    groups = [f"film {number}" for number, size in enumerate(sizes) for _ in range(size)]
    return [{**row, "group": group} for row, group in zip(balanced(len(groups)), groups, strict=True)]


def test_too_few_groups_are_refused():
    with pytest.raises(UserError, match="2 groups in 40 rows: too few to split off test, as groups stay whole"):
        drawn_splits.split_off_missing(TASK, {"train": grouped([30, 10])}, 0.2, 0.1, 1, KEY)


@pytest.mark.parametrize("sizes", [[20, 20, 20], [2, 3, 100], [10, 10, 80], [1, 1, 1, 97], [50, 30, 15, 5]])
def test_large_groups_are_split_as_near_as_they_can_be(sizes, capsys):
    parts = drawn_splits.split_off_missing(TASK, {"train": grouped(sizes)}, 0.2, 0.1, 1, KEY)
    groups = [{row["group"] for row in rows} for rows in parts.values()]
    assert all(groups) and sum(map(len, groups)) == len(sizes)
    assert "DOUBTFUL: " in capsys.readouterr().out


def test_the_share_of_a_split_by_group_counts_rows_not_groups():
    groups = ["one film"] * 91 + [f"film {number}" for number in range(39)]
    rows = [{**row, "group": group} for row, group in zip(balanced(130), groups, strict=True)]
    parts = drawn_splits.split_off_missing(TASK, {"train": rows}, 0.2, 0.1, 1, KEY)
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [91, 13, 26]


@pytest.mark.parametrize("value", [None, "", float("nan")])
def test_a_row_without_a_group_is_reported_with_its_line(tmp_path, value):
    with pytest.raises(UserError, match="rows.jsonl, line 1: column 'film': no group"):
        read(tmp_path, [{"text": "a film", "label": 1, "film": value}], group="film")


# Unlabelled rows.


def unlabelled(tmp_path, texts, parts):
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    wanted = Text(location=str(tmp_path / "text.jsonl"), limit=100)
    return splits.read_unlabelled(TASK, tiny.task_settings().source, wanted, parts, 1, "tasks.tiny.unlabelled")


def test_unlabelled_texts_that_are_also_in_a_split_are_dropped_and_logged(tmp_path, capsys):
    parts = {name: part((name, "x"), split=name) for name in ("train", "validation", "test")}
    rows = unlabelled(tmp_path, ["one", "test", "train", "validation", "Test"], parts)
    assert [row["id"] for row in rows] == ["unlabelled-0", "unlabelled-1"]
    assert {row["text"] for row in rows} == {"one", "Test"}
    assert capsys.readouterr().out.startswith("unlabelled: 3 duplicate rows dropped")


def test_nothing_is_logged_if_no_unlabelled_text_is_dropped(tmp_path, capsys):
    assert len(unlabelled(tmp_path, ["one", "two"], {"train": rows_of(["x"])})) == 2
    assert capsys.readouterr().out == ""


def test_a_task_without_unlabelled_text_has_no_unlabelled_rows():
    assert splits.read_unlabelled(TASK, tiny.task_settings().source, None, {"train": []}, 1, "key") == []


def test_unlabelled_rows_of_a_pair_task_must_be_pairs(tmp_path):
    text = Text(location=str(tmp_path / "text.jsonl"), limit=9)
    pairs = Source(location="x", pair="other")
    with pytest.raises(UserError, match="^key.pair: either both or none of the task's labelled and unlabelled rows"):
        splits.read_unlabelled(TASK, pairs, text, {"train": []}, 1, "key")


@pytest.mark.parametrize(
    ("checkpoint", "named", "doubtful"),
    [
        (None, None, False),
        ("data/raw/tiny/teacher", None, True),
        ("data/raw/tiny/teacher", {"train": "a.csv", "validation": "b.csv"}, True),
        ("data/raw/tiny/teacher", {"train": "a.csv", "test": "b.csv"}, False),
    ],
)
def test_the_users_own_teacher_may_have_seen_test_rows_that_are_split_off(tmp_path, checkpoint, named, doubtful):
    source = {"location": "data/raw/tiny/rows", "text": "text", "label": "label", "splits": named}
    path = tmp_path / "params.yaml"
    path.write_bytes((tiny.ROOT / "params.yaml").read_bytes())
    tiny.write_params(path, **{"finetune_teacher.checkpoint": checkpoint, "tasks.tiny.source": source})
    assert params.load(path).teacher_may_know_test("tiny") == doubtful


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["Good", "bad", "good"], "'Good' and 'good'"),
        (["0", "1", "1.0"], "'1' and '1.0'"),
        (["café", "cafe\u0301"], "'cafe\\u0301' and 'café'"),
        (["a b", "a  b", "a\u00a0b", "a b\u200b"], "'a  b' and 'a b' and 'a b\\u200b' and 'a\\xa0b'"),
        (["good", "bad", "0", "1"], None),
    ],
)
def test_a_label_that_is_written_in_two_ways_is_doubtful(labels, expected, capsys):
    splits.log_labels_written_differently(labels, "tasks.films.source")
    said = capsys.readouterr().out
    assert said == (
        f"tasks.films.source: DOUBTFUL: {expected} are different labels: if they are the same, write them alike in the"
        " file\n"
        if expected
        else ""
    )
