import pytest
import tiny
import torch
from transformers import AutoModel, AutoModelForMaskedLM, BertModel, BertTokenizerFast, GPT2Config

from pipeline.tinybert.augmentation.candidates import restrict_head
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.distillation.layer_map import map_layers
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.families import FAMILIES, check_family, feed_forward, layers, word_logits

KEY = "distill_intermediate.layer_map"


@pytest.mark.parametrize(
    ("layer_map", "student", "teacher", "expected"),
    [
        ("uniform", 4, 12, [3, 6, 9, 12]),
        ("uniform", 3, 3, [1, 2, 3]),
        ("uniform", 1, 6, [6]),
        ("first", 2, 6, [1, 2]),
        ("last", 2, 6, [5, 6]),
        ("last", 3, 3, [1, 2, 3]),
        ([3, 1, 3], 3, 6, [3, 1, 3]),
    ],
)
def test_layer_maps(layer_map, student, teacher, expected):
    assert map_layers(layer_map, student, teacher, KEY) == expected


@pytest.mark.parametrize(
    ("layer_map", "student", "teacher", "why"),
    [
        ("uniform", 4, 6, "6 teacher layers do not divide by 4 student layers"),
        ("uniform", 6, 3, "the student has 6 layers, the teacher only 3"),
        ("first", 6, 3, "the student has 6 layers, the teacher only 3"),
        ("last", 6, 3, "the student has 6 layers, the teacher only 3"),
        ([3, 7], 2, 6, "expected 2 numbers from 1 to 6"),
        ([0, 1], 2, 6, "expected 2 numbers from 1 to 6"),
        ([1, 2, 3], 2, 6, "expected 2 numbers from 1 to 6"),
    ],
)
def test_a_layer_map_that_does_not_fit_is_an_error_that_names_the_setting(layer_map, student, teacher, why):
    with pytest.raises(UserError, match=rf"^{KEY}: .*{why}"):
        map_layers(layer_map, student, teacher, KEY)


def test_another_vocabulary_stops_with_the_setting_and_both_sizes():
    ours, theirs = tiny.tokenizer(), tiny.tokenizer()
    checkpoints.check_vocabulary(ours, theirs, "general_student.checkpoint")
    ours.add_tokens(["newword"])
    with pytest.raises(
        UserError, match=rf"^general_student.checkpoint: .*\({len(ours)} word-pieces\).*\({len(theirs)}\)"
    ):
        checkpoints.check_vocabulary(ours, theirs, "general_student.checkpoint")


def test_the_same_words_with_other_ids_are_another_vocabulary():
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


def test_weights_that_are_no_weights_are_an_error(tmp_path):
    tiny.config().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(UserError, match=r"^encoder\.checkpoint: .* cannot be loaded: ."):
        checkpoints.load(AutoModel, tmp_path, "encoder.checkpoint")


class Malice:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_pickled_weights_that_would_execute_something_are_refused(tmp_path):
    tiny.config().save_pretrained(tmp_path)
    torch.save({"weights": Malice()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"^encoder\.checkpoint: .* cannot be loaded: ."):
        checkpoints.load(AutoModel, tmp_path, "encoder.checkpoint")


def test_a_checkpoint_that_wants_its_own_code_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "strange", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}'
    )
    (tmp_path / "code.py").write_text("raise SystemExit('executed')")
    with pytest.raises(UserError, match=r"^encoder\.checkpoint: .* cannot be loaded: ."):
        checkpoints.load(AutoModel, tmp_path, "encoder.checkpoint")


def test_another_model_family_is_an_error_that_names_the_setting():
    check_family(tiny.config(layers=1), "encoder.checkpoint")
    with pytest.raises(
        UserError, match=r"^encoder\.checkpoint: .*'gpt2': expected one of bert, roberta, electra, distilbert"
    ):
        check_family(GPT2Config(), "encoder.checkpoint")


@pytest.mark.parametrize("saved", [torch.float16, torch.bfloat16])
def test_a_checkpoint_in_half_precision_is_loaded_in_float32(saved, tmp_path):
    BertModel(tiny.config()).to(saved).save_pretrained(tmp_path)
    assert {weight.dtype for weight in checkpoints.load(AutoModel, tmp_path).parameters()} == {torch.float32}


@pytest.mark.parametrize(("said", "positions", "expected"), [(48, 64, 48), (512, 64, 64), (int(1e30), 64, 64)])
def test_a_tokenizer_cuts_where_its_model_ends(said, positions, expected, tmp_path):
    tiny.config().save_pretrained(tmp_path)
    tokenizer = tiny.tokenizer()
    tokenizer.model_max_length = said
    tokenizer.save_pretrained(tmp_path)
    assert positions == tiny.config().max_position_embeddings
    assert checkpoints.tokenizer(tmp_path).model_max_length == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_words_are_proposed_at_marked_places_as_by_the_whole_model(tmp_path, batch, family):
    tiny.write_family(tmp_path, family)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    inputs = {name: batch([9, 5], padding=3)[name] for name in ("input_ids", "attention_mask")}
    positions = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    positions[[0, 0, 1], [2, 6, 4]] = True
    expected = model(**inputs).logits[positions]
    sizes = []
    for block in layers(model.base_model):
        to, _ = feed_forward(block, family)
        to.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[:-1].numel()))
    torch.testing.assert_close(word_logits(model, inputs, positions), expected)
    assert sizes[-1] == 3 and set(sizes[:-1]) == {24}
    words = [7, 5, 20]
    some = word_logits(restrict_head(model, words), inputs, positions)
    torch.testing.assert_close(some, expected[:, words])
    torch.testing.assert_close(model(**inputs).logits[positions], expected)  # as before
