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


def test_the_share_of_unknown_word_pieces_is_logged_and_called_doubtful_where_it_is_high(capsys):
    texts = {"readable": ["the good film is a good film, but"] * 10 + ["zzz"], "strange": ["zzz film", "a yyy"]}
    parts = {name: [{"text": text} for text in texts[name]] for name in texts}
    lengths.log_lengths(tiny.task([]), parts, tiny.tokenizer())
    readable, strange, doubtful = capsys.readouterr().out.splitlines()
    assert readable.startswith("readable: ") and readable.endswith("; 1.1 % of the word-pieces are unknown")
    assert strange.startswith("strange: ") and strange.endswith("; 50.0 % of the word-pieces are unknown")
    assert doubtful.startswith("strange: DOUBTFUL: the model cannot read 50.0 % of the word-pieces, expected less")


def test_unknown_word_pieces_are_counted_without_special_tokens():
    tokenizer = tiny.tokenizer()
    texts = ["zzz good film", "a good film", "", "zzz yyy"]
    unknown, pieces = lengths.count_unknown(tokenizer(texts, padding=True)["input_ids"], tokenizer)
    assert (unknown.tolist(), pieces.tolist()) == ([1, 0, 0, 2], [3, 3, 0, 2])
    assert [part.tolist() for part in lengths.count_unknown([], tokenizer)] == [[], []]


def test_a_max_length_above_the_model_s_is_logged(capsys):
    lengths.log_lengths(tiny.task([], max_length=640), {"test": [{"text": "a film"}]}, tiny.tokenizer())
    assert "max_length: 640: the model takes 64 word-pieces: set the task's to that or less" in capsys.readouterr().out
