import pytest
import tiny

from pipeline.tinybert.augmentation import new_pairs
from pipeline.tinybert.data import neighbours, rows

TASK = tiny.task(["different", "same"])
ORIGINALS = [(f"train-{number}", f"one {number}", f"other {number}") for number in range(20)]
ROWS = [
    {"id": name, "text": text, "pair": pair, "label": "same", "variant": variant}
    for name, one, other in ORIGINALS
    for variant, (text, pair) in enumerate([(one, other), (f"new {one}", other), (one, f"new {other}")])
]


@pytest.fixture
def path(tmp_path):
    rows.write(tmp_path / "rows.jsonl", ROWS)
    return tmp_path / "rows.jsonl"


def appended(path, wanted=400, seed=1, splits=()) -> list[dict]:
    before = list(rows.read(path))
    count = new_pairs.append(TASK, path, splits, wanted, seed)
    found = list(rows.read(path))
    assert found[: len(before)] == before and len(found) == len(before) + count
    return found[len(before) :]


def test_new_pairs_are_variants_with_their_originals_and_texts_of_two_rows(path):
    made = appended(path)
    kinds = {"variant": 0, "two rows": 0}
    for row in made:
        one, other = (row[field].removeprefix("new ") for field in ("text", "pair"))
        if one == other:
            kinds["variant"] += 1
            assert row["text"] != row["pair"]
        else:
            kinds["two rows"] += 1
            assert one.startswith("one ") and other.startswith("other ")
    assert kinds["variant"] >= 30 and kinds["two rows"] > 100


def test_texts_of_two_rows_have_more_or_less_in_common(tmp_path):
    """Of 40 rows, 20 are about each of two topics: text and pair of a row share three of four words."""
    originals = [
        (f"{topic} alpha {number}", f"{topic} beta {number}") for topic in ("red", "blue") for number in range(20)
    ]
    rows.write(
        tmp_path / "rows.jsonl",
        [
            {"id": f"train-{at}", "text": one, "pair": two, "label": "same", "variant": 0}
            for at, (one, two) in enumerate(originals)
        ],
    )
    made = [(row["text"].split()[0], row["pair"].split()[0]) for row in appended(tmp_path / "rows.jsonl", 2000)]
    alike = sum(one == two for one, two in made) / len(made)
    assert 0.55 < alike < 0.95  # if the rows were drawn alike, half


def test_of_many_rows_some_are_compared(path, monkeypatch):
    monkeypatch.setattr(neighbours, "MOST", 5)
    assert len({row["text"].split()[-1] for row in appended(path)}) == 5


def test_one_row_gets_pairs_of_its_variants_only(tmp_path):
    rows.write(tmp_path / "rows.jsonl", ROWS[:3])
    assert {(row["text"], row["pair"]) for row in appended(tmp_path / "rows.jsonl")} == {
        ("new one 0", "one 0"),
        ("new other 0", "other 0"),
    }


def test_new_pairs_are_distinct_and_have_no_label(path):
    made = appended(path)
    assert len({(row["text"], row["pair"]) for row in made}) == len({row["id"] for row in made}) == len(made)
    assert all(row.keys() == {"id", "text", "pair", "variant"} and row["variant"] for row in made)


def test_new_pairs_that_occur_in_a_split_are_dropped(path, tmp_path):
    rows.write(tmp_path / "test.jsonl", [{"id": "test-0", "text": "one 3", "pair": "other 4", "label": "same"}])
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(path.read_bytes())
    every = appended(path, 5000)
    rest = appended(copy, 5000, splits=[tmp_path / "test.jsonl"])
    assert {(row["text"], row["pair"]) for row in every} - {(row["text"], row["pair"]) for row in rest} == {
        ("one 3", "other 4")
    }


def test_the_seed_decides_the_new_pairs(tmp_path):
    results = []
    for number, seed in enumerate([1, 1, 2]):
        rows.write(tmp_path / f"{number}.jsonl", ROWS)
        results.append(appended(tmp_path / f"{number}.jsonl", 50, seed))
    assert results[0] == results[1] != results[2]


def test_rows_of_one_text_get_no_pairs(tmp_path):
    rows.write(tmp_path / "rows.jsonl", [{key: row[key] for key in row if key != "pair"} for row in ROWS])
    assert appended(tmp_path / "rows.jsonl") == []
    assert new_pairs.append(TASK, tmp_path / "rows.jsonl", [], 0, 1) == 0
