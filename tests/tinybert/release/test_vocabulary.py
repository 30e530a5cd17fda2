import pytest
import tiny
import torch
from transformers import AutoModel

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.families import FAMILIES
from pipeline.tinybert.release import vocabulary

TEXT = "the heartwarming film !"


def test_what_occurs_stays_with_the_special_pieces_and_single_characters():
    tokenizer = tiny.tokenizer()
    kept = vocabulary.needed(tokenizer, [tokenizer("good film")["input_ids"]], ["dull"], "key")
    pieces = tokenizer.convert_ids_to_tokens(kept)
    assert kept == sorted(set(kept)) and {"good", "film", "dull", *tokenizer.all_special_tokens} <= set(pieces)
    assert "bad" not in pieces
    assert {piece for piece in tokenizer.get_vocab() if len(piece.removeprefix("##")) == 1} <= set(pieces)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "roberta"])
def test_texts_of_kept_pieces_are_read_as_before(tmp_path, family):
    tiny.write_family(tmp_path, family)
    model, tokenizer = AutoModel.from_pretrained(tmp_path).eval(), checkpoints.tokenizer(tmp_path)
    texts = {"text": [TEXT, "the film"], "padding": True, "return_tensors": "pt"}
    inputs = tokenizer(**texts)
    expected = model(**inputs).last_hidden_state
    kept = vocabulary.needed(tokenizer, inputs["input_ids"].tolist(), [], "key")
    smaller = vocabulary.trim(model, tokenizer, kept)
    assert len(smaller) == len(kept) < len(tokenizer)
    assert [smaller.tokenize(text) for text in texts["text"]] == [tokenizer.tokenize(text) for text in texts["text"]]
    torch.testing.assert_close(model(**smaller(**texts)).last_hidden_state, expected)
    checkpoints.save(tmp_path / "smaller", model, smaller)
    saved, again = AutoModel.from_pretrained(tmp_path / "smaller").eval(), checkpoints.tokenizer(tmp_path / "smaller")
    torch.testing.assert_close(saved(**again(**texts)).last_hidden_state, expected)
    assert again.model_max_length == tokenizer.model_max_length


def test_a_word_that_is_not_kept_falls_to_shorter_pieces():
    tokenizer = tiny.tokenizer()
    model = AutoModel.from_config(tiny.config(layers=1))
    pieces = ["un", "##watch", "##able"]
    kept = vocabulary.needed(tokenizer, [tokenizer.convert_tokens_to_ids([*pieces, "heart"])], [], "key")
    smaller = vocabulary.trim(model, tokenizer, kept)
    assert smaller.tokenize("unwatchable heartwarming") == [*pieces, smaller.unk_token]
    assert tokenizer.tokenize("heartwarming") == ["heart", "##warm", "##ing"]


def test_a_vocabulary_of_another_kind_is_refused_with_the_setting(tmp_path):
    tiny.write_family(tmp_path, "roberta")
    with pytest.raises(UserError, match=r"^export.frequent_words: only a vocabulary of word-pieces"):
        vocabulary.needed(checkpoints.tokenizer(tmp_path), [], [], "export.frequent_words")


def test_a_tokenizer_that_reads_otherwise_once_trimmed_is_refused():
    tokenizer = tiny.tokenizer()
    good, dull = (tokenizer(text)["input_ids"] for text in ("good film", "dull film"))
    vocabulary.check(tokenizer, [good, dull], tokenizer, [good, dull], "key")
    with pytest.raises(UserError, match="^key: .* cannot be trimmed"):
        vocabulary.check(tokenizer, [good, dull], tokenizer, [good, good], "key")
