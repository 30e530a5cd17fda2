import tiny

from pipeline.tinybert.data import lengths


def test_lengths_and_how_many_would_be_cut_are_told_of_each_part(capsys):
    rows = [{"text": text} for text, _ in tiny.sentences(30, seed=0)]
    lengths.say_lengths(tiny.task([], max_length=12), {"test": rows, "unlabelled": []}, tiny.tokenizer())
    said = capsys.readouterr().out
    counts = [len(tiny.tokenizer()(row["text"])["input_ids"]) for row in rows]
    assert min(counts) <= 12 < max(counts)
    assert said.startswith("test: ")
    assert f"the longest {max(counts)}; {sum(n > 12 for n in counts)} of 30 are longer than max_length, 12" in said
    assert len(said.splitlines()) == 1


def test_a_length_beyond_the_model_s_is_told(capsys):
    lengths.say_lengths(tiny.task([], max_length=640), {"test": [{"text": "a film"}]}, tiny.tokenizer())
    assert "max_length: 640: the model takes 64 word-pieces: set the task's to that or less" in capsys.readouterr().out
