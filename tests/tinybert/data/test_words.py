import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tinybert.data import words

ENGLISH = st.text(st.sampled_from("aeZé19 \n\t'\"`.,;:!?()-…—“”’«$%/\u00ad\u2028"), max_size=40)


@given(ENGLISH)
def test_in_a_script_with_blanks_the_words_are_those_between_blanks(text):
    assert words.count(text) == len(text.split())
    assert list(words.divide_sentence(text)) == [text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("这部电影很好看。", ["这", "部", "电影", "很好", "看", "。"]),
        ("今日は映画を見る。", ["今日", "は", "映画", "を", "見る", "。"]),
        ("ภาษาไทยไม่มีช่องว่าง", ["ภาษา", "ไทย", "ไม่มี", "ช่อง", "ว่าง"]),
        ("ພາສາລາວ", ["ພາສາ", "ລາວ"]),
        ("ភាសាខ្មែរជាភាសា", ["ភាសាខ្មែរ", "ជា", "ភាសា"]),
        ("བོད་སྐད", ["བོད", "་", "སྐད"]),
        ("我love它,ok", ["我", "love", "它", ",", "ok"]),
        ("😀电影 film", ["😀", "电影", "film"]),
        ("अच्छी है। हाँ", ["अच्छी", "है", "।", "हाँ"]),
        ("جيد، نعم؟", ["جيد", "،", "نعم", "؟"]),
        ("हिन्दी फ़िल्म, 영화가", ["हिन्दी", "फ़िल्म", ",", "영화가"]),
        ("cafe\u0301 isn't", ["cafe\u0301", "is", "n't"]),
    ],
)
def test_words_are_found_in_languages_with_and_without_blanks(text, expected):
    assert words.tokens(text) == expected


@pytest.mark.parametrize("text", ['A "good film", he said.', "``a'' \"b\" ''c''", '"', '电影"很好"'])
def test_the_words_of_a_text_keep_its_own_quotes(text):
    assert "".join(words.tokens(text)) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "expected"), [("这部电影很好看。", 5), ("。", 1), ("电影 很好 ！", 3), ("ภาษาไทย is Thai", 4)]
)
def test_words_without_blanks_are_counted_one_by_one(text, expected):
    assert words.count(text) == expected


@pytest.mark.parametrize(
    "word", ["film", "été", "cafe\u0301", "हिन्दी", "தமிழ்", "電影", "ไม่มี", "مُحَمَّد", "می\u200cخواهم", "영화"]
)
def test_a_word_may_have_vowel_signs_and_accents(word):
    assert words.is_word(word)


@pytest.mark.parametrize("text", ["", "3D", "e.g", "a b", "。", "\u0301a", "don't", "film\u00ad", "١٢"])
def test_other_characters_make_no_word(text):
    assert not words.is_word(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("好看。真的吗？他说：“是的。”", ["好看。", "真的吗？", "他说：“是的。”"]),
        ("अच्छी है। दूसरा वाक्य", ["अच्छी है। ", "दूसरा वाक्य"]),
        ("هل هذا جيد؟ نعم", ["هل هذا جيد؟ ", "نعم"]),
        ("Mr. Smith! He", ["Mr. Smith! He"]),
    ],
)
def test_sentences_end_at_the_marks_of_their_script(text, expected):
    assert list(words.divide_sentence(text)) == expected
