"""A tokenizer fits its model, and two that shall read alike do."""

import json
from pathlib import Path

import pytest
import tiny
from transformers import BertTokenizerFast

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.families import FAMILIES

KEY = "encoder.checkpoint"


def change_json(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def without_tokens(*tokens: str):
    def change(content: dict) -> None:
        content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in tokens]
        for token in tokens:
            del content["model"]["vocab"][token]

    return change


def rename_unknown(content: dict) -> None:
    vocabulary = content["model"]["vocab"]
    vocabulary["unk"] = vocabulary["[UNK]"]
    without_tokens("[UNK]")(content)


GENERIC = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "mask_token": "[MASK]"}


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_checkpoint_without_tokenizer_files_is_refused(tmp_path, family):
    tiny.write_family(tmp_path, family)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match=rf"^{KEY}: {tmp_path} cannot be loaded: its tokenizer has no words: copy "):
        checkpoints.tokenizer(tmp_path, KEY)


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({}, without_tokens("[PAD]"), "its tokenizer gives several word pieces one number"),
        (
            {},
            lambda content: content["model"]["vocab"].update(new=57),
            "its tokenizer gives 'new' the number 57, but there are",
        ),
        ({**GENERIC, "pad_token": None}, None, "its tokenizer has no pad_token: name it in tokenizer_config.json"),
        ({**GENERIC, "mask_token": None}, None, "its tokenizer has no mask_token"),
        (GENERIC, None, "its tokenizer has no unk_token"),
        (
            {**GENERIC, "unk_token": "[UNK]"},
            lambda content: content.update(post_processor=None),
            "its tokenizer adds no special tokens",
        ),
        ({**GENERIC, "unk_token": "unk"}, rename_unknown, "WordPiece error: Missing "),
    ],
    ids=["no [PAD]", "added token", "no pad token", "no mask token", "no unknown token", "no [CLS]", "no [UNK]"],
)
def test_a_tokenizer_that_its_model_cannot_use_is_refused(tmp_path, settings, change, message):
    tiny.write_checkpoint(tmp_path)
    if change:
        change_json(tmp_path / "tokenizer.json", change)
    if settings:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=rf"^{KEY}: {tmp_path} cannot be loaded: {message}"):
        checkpoints.tokenizer(tmp_path, KEY)


def test_another_padding_id_than_that_from_which_positions_are_counted_is_refused(tmp_path):
    tiny.write_family(tmp_path, "roberta")
    change_json(tmp_path / "config.json", lambda content: content.update(pad_token_id=0))
    with pytest.raises(UserError, match="pad_token_id is 0 in config.json, but 1 in its tokenizer"):
        checkpoints.tokenizer(tmp_path, KEY)


def test_texts_are_padded_at_their_end(tmp_path):
    tiny.write_checkpoint(tmp_path)
    change_json(tmp_path / "tokenizer_config.json", lambda content: content.update(padding_side="left"))
    ids = checkpoints.tokenizer(tmp_path)(["good", "a good film"], padding=True)["input_ids"]
    assert ids[0][-2:] == [0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_lower_case": False}, r"reads 'Good' as \[CLS\] \[UNK\] \[SEP\], the teacher's as \[CLS\] good \[SEP\]"),
        ({"strip_accents": False}, "reads 'ǵood' as"),
        ({"tokenize_chinese_chars": False}, "reads '東京"),
    ],
)
def test_tokenizers_of_one_vocabulary_that_read_text_differently_are_an_error(tmp_path, settings, message):
    tiny.write_checkpoint(tmp_path)
    teacher = checkpoints.tokenizer(tmp_path)
    checkpoints.check_vocabulary(checkpoints.tokenizer(tmp_path), teacher, KEY)
    change_json(tmp_path / "tokenizer_config.json", lambda content: content.update(settings))
    with pytest.raises(UserError, match=rf"^{KEY}: the student's tokenizer {message}"):
        checkpoints.check_vocabulary(checkpoints.tokenizer(tmp_path), teacher, KEY)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_in_order_gives_no_doubt(tmp_path, family, capfd):
    tiny.write_family(tmp_path, family)
    checkpoints.user_tokenizer(tmp_path, KEY)
    assert not capfd.readouterr().out


def test_a_tokenizer_file_that_the_library_reads_otherwise_is_doubtful(tmp_path, capfd):
    tiny.write_checkpoint(tmp_path)
    change_json(tmp_path / "tokenizer.json", lambda content: content["normalizer"].update(lowercase=False))
    checkpoints.user_tokenizer(tmp_path, KEY)
    expected = f"{KEY}: DOUBTFUL: 'Good' is read as [CLS] good [SEP], but tokenizer.json says [CLS] [UNK] [SEP]: make"
    assert capfd.readouterr().out.startswith(expected)


def test_a_vocabulary_with_capitals_that_is_read_in_lower_case_is_doubtful(tmp_path, capfd):
    tiny.write_checkpoint(tmp_path, layers=1)
    words = [*tiny.SPECIAL, *(word.title() for word in tiny.WORDS), *tiny.PIECES, *".,!'"]
    for lower, logged in ((True, "DOUBTFUL: the vocabulary has words with capitals"), (False, "")):
        BertTokenizerFast(
            vocab={word: number for number, word in enumerate(words)}, do_lower_case=lower
        ).save_pretrained(tmp_path)
        checkpoints.user_tokenizer(tmp_path, KEY)
        printed = capfd.readouterr().out
        assert logged in printed and bool(logged) == bool(printed)
