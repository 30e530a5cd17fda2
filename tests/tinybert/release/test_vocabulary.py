import json

import pytest
import tiny
import torch
from tokenizers import Tokenizer
from transformers import AutoModel

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.release import vocabulary

TEXT = "the heartwarming film !"


def test_kept_are_pieces_of_the_texts_and_words_special_tokens_and_single_characters():
    tokenizer = tiny.tokenizer()
    kept = vocabulary.needed(tokenizer, [tokenizer("good film")["input_ids"]], ["dull"], "key")
    pieces = tokenizer.convert_ids_to_tokens(kept)
    assert kept == sorted(set(kept)) and {"good", "film", "dull", *tokenizer.all_special_tokens} <= set(pieces)
    assert "bad" not in pieces
    assert {piece for piece in tokenizer.get_vocab() if len(piece.removeprefix("##")) == 1} <= set(pieces)


@pytest.mark.parametrize("family", ["bert", "electra", "distilbert", "mpnet", "xlm-roberta"])
def test_texts_of_kept_pieces_give_the_same_pieces_and_hidden_states(tmp_path, family):
    tiny.write_family(tmp_path, family)
    model, tokenizer = AutoModel.from_pretrained(tmp_path).eval(), checkpoints.tokenizer(tmp_path)
    texts = {"text": [TEXT, "the film"], "padding": True, "return_tensors": "pt"}
    inputs = tokenizer(**texts)
    expected = model(**inputs).last_hidden_state
    kept = vocabulary.needed(tokenizer, inputs["input_ids"].tolist(), [], "key")
    trimmed = vocabulary.trim(model, tokenizer, kept)
    assert len(trimmed) == len(kept) < len(tokenizer)
    assert trimmed.convert_ids_to_tokens(range(len(kept))) == tokenizer.convert_ids_to_tokens(kept)
    assert [trimmed.tokenize(text) for text in texts["text"]] == [tokenizer.tokenize(text) for text in texts["text"]]
    torch.testing.assert_close(model(**trimmed(**texts)).last_hidden_state, expected)
    checkpoints.save(tmp_path / "trimmed", model, trimmed)
    saved, again = AutoModel.from_pretrained(tmp_path / "trimmed").eval(), checkpoints.tokenizer(tmp_path / "trimmed")
    torch.testing.assert_close(saved(**again(**texts)).last_hidden_state, expected)
    assert again.model_max_length == tokenizer.model_max_length


def test_a_word_outside_the_trimmed_vocabulary_is_split_into_shorter_pieces():
    tokenizer = tiny.tokenizer()
    model = AutoModel.from_config(tiny.config(layers=1))
    pieces = ["un", "##watch", "##able"]
    kept = vocabulary.needed(tokenizer, [tokenizer.convert_tokens_to_ids([*pieces, "heart"])], [], "key")
    trimmed = vocabulary.trim(model, tokenizer, kept)
    assert trimmed.tokenize("unwatchable heartwarming") == [*pieces, trimmed.unk_token]
    assert tokenizer.tokenize("heartwarming") == ["heart", "##warm", "##ing"]


def test_pieces_for_bytes_are_kept_and_special_numbers_are_those_of_the_trimmed_vocabulary(tmp_path):
    tiny.write_family(tmp_path, "xlm-roberta")
    model, tokenizer = AutoModel.from_pretrained(tmp_path), checkpoints.tokenizer(tmp_path)
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    known = len(description["model"]["vocab"])
    description["model"] |= {"byte_fallback": True}
    description["model"]["vocab"] += [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(description))
    model.resize_token_embeddings(known + 256)
    before = tokenizer.tokenize("film ☂")
    assert "<0xE2>" in before
    kept = vocabulary.needed(tokenizer, [tokenizer("film")["input_ids"]], [], "key")
    last = kept[-1]
    model.config.sep_token_id, model.config.eos_token_id = last, [last]
    assert vocabulary.trim(model, tokenizer, kept).tokenize("film ☂") == before
    assert model.config.sep_token_id == len(kept) - 1


def test_a_vocabulary_of_another_kind_is_an_error_that_names_the_setting(tmp_path):
    tiny.write_family(tmp_path, "roberta")
    with pytest.raises(
        UserError,
        match=r"^export.frequent_words: only a WordPiece or Unigram vocabulary can be trimmed, not one of BPE, ",
    ):
        vocabulary.needed(checkpoints.tokenizer(tmp_path), [], [], "export.frequent_words")


def test_a_tokenizer_that_splits_texts_differently_after_trimming_is_an_error():
    tokenizer = tiny.tokenizer()
    good, dull = (tokenizer(text)["input_ids"] for text in ("good film", "dull film"))
    vocabulary.check(tokenizer, [good, dull], tokenizer, [good, dull], "key")
    with pytest.raises(UserError, match="^key: .* cannot be trimmed"):
        vocabulary.check(tokenizer, [good, dull], tokenizer, [good, good], "key")
