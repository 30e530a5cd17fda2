import json

import pytest
import tiny
import torch
from transformers import AutoModel, AutoModelForMaskedLM, BertModel, BertTokenizerFast, GPT2Config

from pipeline.tinybert.augmentation.candidates import restrict_head
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.families import FAMILIES, check_family, feed_forward, layers, word_logits


def test_a_different_vocabulary_is_an_error_with_the_setting_and_both_sizes():
    ours, theirs = tiny.tokenizer(), tiny.tokenizer()
    checkpoints.check_vocabulary(ours, theirs, "general_student.checkpoint")
    ours.add_tokens(["newword"])
    with pytest.raises(
        UserError, match=rf"^general_student.checkpoint: .*\({len(ours)} word pieces\).*\({len(theirs)}\)"
    ):
        checkpoints.check_vocabulary(ours, theirs, "general_student.checkpoint")


def test_the_same_words_with_other_ids_are_a_different_vocabulary():
    words = list(tiny.tokenizer().get_vocab())
    swapped = BertTokenizerFast(vocab={word: number for number, word in enumerate(words[:5] + words[:4:-1])})
    with pytest.raises(UserError, match="vocabulary"):
        checkpoints.check_vocabulary(swapped, tiny.tokenizer(), "general_student.checkpoint")


@pytest.mark.parametrize("content", [None, "{}", '{"model_type": "bert"}', "not json"])
def test_a_folder_without_a_model_is_an_error_that_names_the_setting(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"^encoder\.checkpoint: .* cannot be loaded: ."):
        checkpoints.load(AutoModel, tmp_path, "encoder.checkpoint")


def test_an_invalid_weights_file_is_an_error(tmp_path):
    tiny.config().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"^encoder\.checkpoint: .* cannot be loaded: ."):
        checkpoints.load(AutoModel, tmp_path, "encoder.checkpoint")


def test_a_checkpoint_with_custom_code_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "strange", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}'
    )
    (tmp_path / "code.py").write_text("raise SystemExit('executed')")
    with pytest.raises(UserError, match=r"^encoder\.checkpoint: .* cannot be loaded: ."):
        checkpoints.load(AutoModel, tmp_path, "encoder.checkpoint")


def test_an_unsupported_family_is_an_error_that_names_the_setting():
    check_family(tiny.config(layers=1), "encoder.checkpoint")
    expected = "model family 'gpt2' is not supported: expected one of bert, roberta, xlm-roberta, electra, distilbert"
    with pytest.raises(UserError, match=f"^encoder.checkpoint: {expected}"):
        check_family(GPT2Config(), "encoder.checkpoint")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_checkpoint_in_half_precision_is_loaded_in_float32(dtype, tmp_path):
    BertModel(tiny.config()).to(dtype).save_pretrained(tmp_path)
    assert {weight.dtype for weight in checkpoints.load(AutoModel, tmp_path).parameters()} == {torch.float32}


@pytest.mark.parametrize(("stated", "positions", "expected"), [(48, 64, 48), (512, 64, 64), (int(1e30), 64, 64)])
def test_a_tokenizers_maximum_length_is_at_most_the_models_positions(stated, positions, expected, tmp_path):
    tiny.config().save_pretrained(tmp_path)
    tokenizer = tiny.tokenizer()
    tokenizer.model_max_length = stated
    tokenizer.save_pretrained(tmp_path)
    assert positions == tiny.config().max_position_embeddings
    assert checkpoints.tokenizer(tmp_path).model_max_length == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_word_logits_equal_the_whole_models_and_compute_the_last_layer_at_those_positions_only(tmp_path, batch, family):
    tiny.write_family(tmp_path, family)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    inputs = {name: batch([9, 5], padding=3)[name] for name in ("input_ids", "attention_mask")}
    positions = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    positions[[0, 0, 1], [2, 6, 4]] = True
    expected = model(**inputs).logits[positions]
    sizes = []
    for block in layers(model.base_model):
        up, _ = feed_forward(block, family)
        up.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[:-1].numel()))
    torch.testing.assert_close(word_logits(model, inputs, positions), expected)
    assert sizes == [24, 24, 24, 24 if family == "modernbert" else 3]
    words = [7, 5, 20]
    restricted = word_logits(restrict_head(model, words), inputs, positions)
    torch.testing.assert_close(restricted, expected[:, words])
    torch.testing.assert_close(model(**inputs).logits[positions], expected)  # the model itself is unchanged


def test_a_saved_tokenizer_says_nothing_of_how_it_was_loaded_and_called(tmp_path):
    tiny.write_checkpoint(tmp_path / "original")
    tokenizer = checkpoints.tokenizer(tmp_path / "original")
    tokenizer("a good film", truncation=True, max_length=4, padding="max_length", stride=1)
    tokenizer.save_pretrained(tmp_path / "called")
    model, tokenizer = AutoModel.from_pretrained(tmp_path / "original"), checkpoints.tokenizer(tmp_path / "original")
    tokenizer.init_kwargs |= json.loads((tmp_path / "called" / "tokenizer_config.json").read_text())
    tokenizer("a good film", truncation=True, max_length=4, padding="max_length")
    checkpoints.save(tmp_path / "saved", model, tokenizer)
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert not saved.keys() & {*checkpoints.CALL_STATE, "name_or_path"} and saved["model_max_length"] == 64
    description = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
    assert description["truncation"] is None and description["padding"] is None
