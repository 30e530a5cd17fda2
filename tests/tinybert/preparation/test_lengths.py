import tiny
from transformers import BertTokenizerFast

from pipeline.tinybert.preparation import lengths


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
    letters = "of the word pieces are unknown, 0.0 % are one letter of a longer word"
    assert readable.startswith("readable: ") and readable.endswith(f"; 1.1 % {letters}")
    assert strange.startswith("strange: ") and strange.endswith(f"; 50.0 % {letters}")
    assert doubtful.startswith("strange: DOUBTFUL: the encoder knows few words of these texts (expected at most 5 %")


def word_pieces(*words: str) -> BertTokenizerFast:
    vocabulary = {piece: number for number, piece in enumerate([*tiny.SPECIAL, *words])}
    return BertTokenizerFast(vocab=vocabulary, do_lower_case=False)


def test_unknown_word_pieces_and_single_letters_are_counted_without_special_tokens():
    tokenizer = word_pieces("film", "ф", "##и", "##л", "##ing", "映", "画", "영", "##화")
    texts = ["zzz film film", "фил filming", "", "映画 영화", "zzz yyy"]
    found = lengths.count_unread(tokenizer(texts, padding=True)["input_ids"], tokenizer)
    assert [counts.tolist() for counts in found] == [[3, 5, 0, 4, 2], [1, 0, 0, 0, 2], [0, 2, 0, 0, 0]]
    assert [counts.tolist() for counts in lengths.count_unread([], tokenizer)] == [[], [], []]


def test_single_bytes_of_letters_are_counted_in_a_byte_level_vocabulary():
    tokenizer = tiny.byte_level_tokenizer()
    pieces, unknown, letters = lengths.count_unread(tokenizer(["The film", "фильм"])["input_ids"], tokenizer)
    assert (unknown.tolist(), letters.tolist()) == ([0, 0], [0, 10]) and pieces[1] == 10


def test_a_max_length_above_the_model_s_is_logged(capsys):
    lengths.log_lengths(tiny.task([], max_length=640), {"test": [{"text": "a film"}]}, tiny.tokenizer())
    assert "max_length: 640: the model takes 64 word pieces: set the task's to that or less" in capsys.readouterr().out


def test_the_length_of_a_book_is_counted_up_to_what_a_model_could_read(task, capsys):
    lengths.log_lengths(task, {"train": [{"text": "good " * 100_000}, {"text": "good"}]}, tiny.tokenizer())
    assert capsys.readouterr().out == (
        "train: word pieces per row: median 10002, 95th percentile 19002, maximum 20002; 1 of 2 are longer than"
        " max_length, 32; 0.0 % of the word pieces are unknown, 0.0 % are one letter of a longer word\n"
        "train: 1 of 2 rows are longer than 100000 characters: counted up to there\n"
    )
