import tiny

from pipeline.tinybert.data import lengths


def test_lengths_and_the_number_of_truncated_rows_are_logged_for_each_split(capsys):
    rows = [{"text": text} for text, _ in tiny.sentences(30, seed=0)]
    lengths.log_lengths(tiny.task([], max_length=12), {"test": rows, "unlabelled": []}, tiny.tokenizer())
    printed = capsys.readouterr().out
    counts = [len(tiny.tokenizer()(row["text"])["input_ids"]) for row in rows]
    assert min(counts) <= 12 < max(counts)
    assert printed.startswith("test: ")
    assert f"maximum {max(counts)}; {sum(n > 12 for n in counts)} of 30 are longer than max_length, 12" in printed
    assert len(printed.splitlines()) == 1


def test_a_max_length_above_the_model_s_is_logged(capsys):
    lengths.log_lengths(tiny.task([], max_length=640), {"test": [{"text": "a film"}]}, tiny.tokenizer())
    assert "max_length: 640: the model takes 64 word-pieces: set the task's to that or less" in capsys.readouterr().out


def test_the_length_of_a_book_is_counted_up_to_what_a_model_could_read(task, capsys):
    lengths.log_lengths(task, {"train": [{"text": "good " * 100_000}, {"text": "good"}]}, tiny.tokenizer())
    assert capsys.readouterr().out == (
        "train: word-pieces per row: median 10002, 95th percentile 19002, maximum 20002; 1 of 2 are longer than"
        " max_length, 32\ntrain: 1 of 2 rows are longer than 100000 characters: counted up to there\n"
    )
