import pytest
import tiny

from pipeline.tinybert.preparation import near_duplicates

TASK = tiny.task([])
TEXT = "Please note that my order from last week has not yet arrived"


def rows(*texts) -> list[dict]:
    fields = [
        {"text": text} if isinstance(text, str) else dict(zip(("text", "pair"), text, strict=True)) for text in texts
    ]
    return [{**row, "where": f"line {number}"} for number, row in enumerate(fields)]


@pytest.mark.parametrize(
    ("test", "train", "near"),
    [
        (TEXT, f"{TEXT.upper()} 123!", True),
        (TEXT, TEXT.replace("week", "month"), True),
        (TEXT, TEXT.replace("last week has not yet", "this shop did never"), False),
        ("A good film", "a good film!", True),
        ("A good film", "a good, good film", False),  # short texts must have the same words
        ("Episode 7 of 10", "Episode 8 of 10", False),
        (":-)", "!", False),
        (("Yes.", "It is late."), ("yes", "It is late"), True),
        (("Yes.", "It is late."), ("Yes", "It is early."), False),
        ("真好看。", "真好看!", True),
        ((TEXT, "It is late."), (TEXT, "It is late"), True),
        ((TEXT, "It is late."), (TEXT, "Where is it?"), False),
        ((TEXT, "It is late."), ("It is late", TEXT), True),
        (("Yes.", "It is late."), ("It is late", "yes"), True),
        ("这部电影真的非常好看我很喜欢。", "这部电影真的非常好看我很喜欢!", True),
    ],
)
def test_texts_are_near_if_they_share_four_fifths_of_their_words(capsys, test, train, near):
    near_duplicates.log_near_duplicates(TASK, "test", rows(test), rows("Something else", train)[1:])
    expected = (
        "test: 1 of 1 texts nearly equal a text of train, so its scores may be too high: name a file of other texts as"
        " test, or name a column that tells which rows belong together (`source.group`). These are: line 0 and line 1"
    )
    assert capsys.readouterr().out.strip() == (expected if near else "")


def test_pairs_that_have_a_text_in_common_with_train_are_counted_if_they_are_many(capsys):
    train = rows(*((f"premise {number}", f"hypothesis {number}") for number in range(10)))
    test = rows(*((f"premise {number}", f"another {number}") for number in range(3)), *[("new", "too")] * 7)
    near_duplicates.log_shared_texts("test", test, train)
    assert capsys.readouterr().out.startswith(
        "test: 3 of 10 pairs have one text in common with a pair of train. If the"
    )
    near_duplicates.log_shared_texts("test", [*test[2:], *test[3:]], train)
    assert not capsys.readouterr().out
