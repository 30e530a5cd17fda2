import json
from collections import Counter

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.settings import Source, Text
from pipeline.tinybert.data import splits

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
    """The parts of a task whose source is a file, or a folder of splits."""
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


def test_the_splits_that_a_source_has_are_kept(tmp_path):
    files = {"a.jsonl": balanced(8), "b.jsonl": rows_of(["class 0", "class 1"], start=20)}
    parts = read(tmp_path, files, splits={"train": "a.jsonl", "test": "b.jsonl"})
    assert [row["id"] for row in parts["test"]] == ["test-0", "test-1"]
    complete = splits.complete(TASK, parts, test=0.5, validation=0.25, seed=1, key=KEY)
    assert complete["test"] == parts["test"]
    assert {name: len(part) for name, part in complete.items()} == {"train": 6, "validation": 2, "test": 2}


def test_splits_without_one_for_training_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"^tasks.tiny.source.splits: no 'train' \(it has: test\)"):
        read(tmp_path, {"b.jsonl": balanced(2)}, splits={"test": "b.jsonl"})


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
def test_a_bad_row_is_named_with_its_file(tmp_path, record, expected):
    good = {"text": "good", "label": 1}
    with pytest.raises(UserError) as raised:
        read(tmp_path, [good, record, good], labels={"negative": 0, "positive": 1})
    assert str(raised.value) == expected


# Duplicates.


def part(*rows: tuple[str, str], split: str) -> list[dict]:
    return [
        {"id": f"{split}-{n}", "text": text, "label": label, "where": f"{split}, line {n}"}
        for n, (text, label) in enumerate(rows)
    ]


def test_duplicates_are_dropped_and_counted(capsys):
    parts = {
        "train": part(
            ("a", "x"), ("b", "x"), ("a", "y"), ("c", "x"), ("d", "y"), ("a", "x"), ("f", "y"), split="train"
        ),
        "validation": part(("c", "x"), ("e", "y"), split="validation"),
        "test": part(("d", "x"), ("c", "y"), ("d", "x"), split="test"),
    }
    kept = splits.without_duplicates(TASK, parts, {"hard": part(("f", "x"), split="hard")})
    assert {name: texts(rows) for name, rows in kept.items()} == {
        "train": ["a", "b"],
        "validation": ["e"],
        "test": ["d", "c", "d"],
    }
    assert list(kept) == ["train", "validation", "test"]
    assert kept["train"][0]["label"] == "x"
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "train: 1 rows dropped whose text stands in hard, 1 of them with another answer there: train, line 6",
        "train: 2 rows dropped whose text comes before, 1 of them with another answer there: train, line 2",
        "train: 2 rows dropped whose text stands in test, 2 of them with another answer there: train, line 3; train,"
        " line 4",
        "validation: 1 rows dropped whose text stands in test, 1 of them with another answer there: validation, line 0",
    ]


named = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xy")))


@settings(deadline=None)
@given(named, named, named)
def test_no_text_of_training_stands_twice_or_is_tested_and_none_is_lost(train, validation, test):
    given_parts = {"train": train, "validation": validation, "test": test}
    parts = {name: part(*rows, split=name) for name, rows in given_parts.items()}
    kept = splits.without_duplicates(TASK, parts, {})
    assert kept["test"] == parts["test"]
    seen = [*texts(kept["train"]), *texts(kept["validation"]), *set(texts(kept["test"]))]
    assert sorted(seen) == sorted({text for rows in given_parts.values() for text, _ in rows})


# Splitting.


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(15, 60), min_size=2, max_size=4), st.sampled_from([0.1, 0.2, 0.3]), st.integers(0, 99))
def test_each_class_has_its_share_of_every_split(counts, test, seed):
    labels = [f"class {number}" for number, count in enumerate(counts) for _ in range(count)]
    parts = splits.complete(TASK, {"train": rows_of(labels)}, test, 0.2, seed, KEY)
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


def test_the_split_is_fixed_by_its_seed():
    one, again, other = (splits.complete(TASK, {"train": balanced(60)}, 0.2, 0.1, seed, KEY) for seed in (1, 1, 2))
    assert one == again
    assert one["test"] != other["test"] and one["validation"] != other["validation"]


def test_rows_keep_the_order_of_the_source():
    for rows in splits.complete(TASK, {"train": balanced(60)}, 0.2, 0.1, 1, KEY).values():
        numbers = [int(row["id"].removeprefix("train-")) for row in rows]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("labels", "test", "validation", "expected"),
    [
        ("", 0.2, 0.2, "no row is left for train"),
        ("xy" * 4, 0.1, 0.2, "8 rows, 4 of them 'x': too few to split off 1 rows for test.* change prepare.test"),
        ("xy" * 10, 0.2, 0.05, "too few to split off 1 rows for validation .* bring more rows or change prepare.vali"),
        ("x" * 50 + "y", 0.2, 0.2, "51 rows, 1 of them 'y': too few to split off 10 rows for test"),
        ("x" * 50 + "yy", 0.2, 0.2, "52 rows, 2 of them 'y'"),
        ("x" * 50 + "yyy", 0.8, 0.1, "53 rows, 3 of them 'y': too few .* with every class on both sides"),
        ("xy" * 10, 0.5, 0.5, r"prepare.test \+ prepare.validation = 1.0: nothing is left for train"),
    ],
)
def test_rows_that_cannot_be_split_are_refused_with_what_to_change(labels, test, validation, expected):
    with pytest.raises(UserError, match=expected):
        splits.complete(TASK, {"train": rows_of(list(labels))}, test, validation, 1, KEY)


# Labels.


@pytest.mark.parametrize(
    ("given_splits", "advice"),
    [
        ({"train": "a", "test": "b"}, "correct them, bring other rows with them into train"),
        (None, "bring more rows with them, or change prepa"),
    ],
)
def test_a_label_that_training_never_shows_is_refused_with_what_to_change(given_splits, advice):
    parts = {"train": rows_of(["good", "bad"]), "test": rows_of(["bad", "odd"])}
    source = Source(location="x", splits=given_splits)
    for number, row in enumerate(parts["test"]):
        row["where"] = f"b, line {number}"
    expected = rf"^{KEY}: test has labels that no row of train has: 'odd' \(b, line 1\); train has bad, good: {advice}"
    with pytest.raises(UserError, match=expected):
        splits.check_labels(TASK, parts, source, KEY)


# Groups.


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=20, max_size=40), st.integers(0, 99))
def test_a_group_stands_on_one_side_alone(sizes, seed):
    groups = [f"film {number}" for number, size in enumerate(sizes) for _ in range(size)]
    rows = [{**row, "group": group} for row, group in zip(balanced(len(groups)), groups, strict=True)]
    parts = splits.complete(TASK, {"train": rows}, 0.2, 0.1, seed, KEY)
    group_of = {row["id"]: row["group"] for row in rows}
    sides = [{group_of[row["id"]] for row in part} for part in parts.values()]
    assert sum(len(side) for side in sides) == len(sizes)
    assert sum(len(part) for part in parts.values()) == len(rows)
    assert all(sides)


def test_the_column_that_groups_rows_is_read(tmp_path):
    parts = read(tmp_path, [{"text": "film", "label": 1, "title": 7}], group="title")
    assert parts["train"] == [{"id": "train-0", "text": "film", "label": "1", "group": "7"}]


def test_groups_that_stand_on_two_given_sides_are_told(capsys):
    """Splits that the source gives stay as they are: who made them may have had reasons."""

    def of(*groups: str) -> list[dict]:
        return [{**row, "group": group} for row, group in zip(balanced(len(groups)), groups, strict=True)]

    splits.say_shared_groups(TASK, {"train": of("a", "b", "c"), "validation": of("b", "c", "d"), "test": of("e")})
    splits.say_shared_groups(TASK, {"train": balanced(4), "test": balanced(4)})
    assert capsys.readouterr().out == ("validation: 2 of its 3 groups stand in train too: its scores may flatter\n")


def test_too_few_groups_are_refused():
    rows = [{**row, "group": "one film"} for row in balanced(40)]
    with pytest.raises(UserError, match="1 groups in 40 rows, the largest of 40: they make up no 8 rows for test"):
        splits.complete(TASK, {"train": rows}, 0.2, 0.1, 1, KEY)


def test_a_split_by_group_has_its_share_of_the_rows_not_of_the_groups():
    groups = ["one film"] * 91 + [f"film {number}" for number in range(39)]
    rows = [{**row, "group": group} for row, group in zip(balanced(130), groups, strict=True)]
    parts = splits.complete(TASK, {"train": rows}, 0.2, 0.1, 1, KEY)
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [91, 13, 26]


@pytest.mark.parametrize("value", [None, "", float("nan")])
def test_a_row_without_its_group_is_named(tmp_path, value):
    with pytest.raises(UserError, match="rows.jsonl, line 1: column 'film': no group"):
        read(tmp_path, [{"text": "a film", "label": 1, "film": value}], group="film")


# Unlabelled rows.


def unlabelled(tmp_path, texts, parts):
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    wanted = tiny.task_settings().model_copy(
        update={"unlabelled": Text(location=str(tmp_path / "text.jsonl"), limit=100)}
    )
    return splits.unlabelled(TASK, wanted, parts, 1, "tasks.tiny.unlabelled")


def test_unlabelled_texts_that_stand_in_a_split_are_dropped_and_counted(tmp_path, capsys):
    parts = {name: part((name, "x"), split=name) for name in ("train", "validation", "test")}
    rows = unlabelled(tmp_path, ["one", "test", "train", "validation", "Test"], parts)
    assert [row["id"] for row in rows] == ["unlabelled-0", "unlabelled-1"]
    assert {row["text"] for row in rows} == {"one", "Test"}
    assert capsys.readouterr().out.startswith("unlabelled: 3 texts dropped")


def test_nothing_is_said_where_no_unlabelled_text_is_dropped(tmp_path, capsys):
    assert len(unlabelled(tmp_path, ["one", "two"], {"train": rows_of(["x"])})) == 2
    assert capsys.readouterr().out == ""


def test_a_task_without_unlabelled_text_has_no_such_rows():
    assert splits.unlabelled(TASK, tiny.task_settings(), {"train": []}, 1, "key") == []


def test_unlabelled_rows_of_a_pair_task_are_pairs_too(tmp_path):
    text = Text(location=str(tmp_path / "text.jsonl"), limit=9)
    wanted = tiny.task_settings().model_copy(update={"source": Source(location="x", pair="other"), "unlabelled": text})
    with pytest.raises(UserError, match="^key.pair: the task's rows and its unlabelled ones must both be pairs"):
        splits.unlabelled(TASK, wanted, {"train": []}, 1, "key")
