"""A checkpoint's weights are all taken, or it is refused by their names: none of the body is drawn at random."""

import json
import time
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, BertForMaskedLM

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.families import FAMILIES

KEY = "encoder.checkpoint"


@pytest.fixture
def rewrite(tmp_path):
    """``rewrite(change, form)``: save the weights in tmp_path again, after ``change`` (a dict of tensors)."""

    def run(change, form: str = "safetensors") -> None:
        file = tmp_path / "model.safetensors"
        held = change(load_file(file))
        file.unlink()
        if form == "safetensors":
            save_file(held, file)
        elif form == "pickle":
            torch.save(held, tmp_path / "pytorch_model.bin")
        else:
            half = len(held) // 2
            parts = {"one.safetensors": list(held)[:half], "two.safetensors": list(held)[half:]}
            for part, names in parts.items():
                save_file({name: held[name] for name in names}, tmp_path / part)
            index = {"metadata": {}, "weight_map": {name: part for part, names in parts.items() for name in names}}
            (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))

    return run


def renamed(prefix: str):
    return lambda held: {prefix + name: weight for name, weight in held.items()}


def same(one, other) -> bool:
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refusal(folder: Path, loader=AutoModel) -> str:
    with pytest.raises(UserError) as raised:
        checkpoints.load(loader, folder, KEY)
    assert str(raised.value).startswith(f"{KEY}: {folder} cannot be loaded: ")
    return str(raised.value)


def set_config(folder: Path, **values) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


WRAPPED = [
    ("bert", "safetensors", "module."),
    ("bert", "safetensors", "0.auto_model."),
    ("bert", "pickle", "_orig_mod."),
    ("bert", "pickle", "module._orig_mod.model."),
    ("bert", "several files", ""),
    *((family, "several files", "model.{}.") for family in FAMILIES),
]


@pytest.mark.parametrize(("family", "form", "prefix"), WRAPPED)
def test_weights_of_a_wrapped_model_are_those_of_the_model_and_are_saved_under_its_names(
    tmp_path, rewrite, family, form, prefix, capfd
):
    tiny.write_family(tmp_path, family)
    expected = checkpoints.load(AutoModel, tmp_path)
    rewrite(renamed(prefix.format(FAMILIES[family].prefix or family)), form)
    loaded = checkpoints.load(AutoModel, tmp_path, KEY)
    assert same(loaded, expected)
    checkpoints.save(tmp_path / "saved", loaded)
    assert load_file(tmp_path / "saved/model.safetensors").keys() == expected.state_dict().keys()
    checkpoints.user_tokenizer(tmp_path, KEY)
    prefix = prefix.removesuffix("model." if family == "modernbert" and prefix.endswith(".model.") else "{}.")
    line = f"{KEY}: the names of the weights begin with '{prefix}', which is left out\n"
    assert capfd.readouterr().out == (line if prefix else "")


def test_a_wrapped_models_head_is_taken_too(tmp_path):
    torch.manual_seed(0)
    model = BertForMaskedLM(tiny.config())
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(renamed("module.model.")(load_file(file)), file)
    loaded, report = checkpoints.load_and_report(AutoModelForMaskedLM, tmp_path)
    assert same(loaded, model) and not report["missing_keys"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_pooler_or_head_is_drawn_from_the_seed_and_a_head_that_is_not_wanted_is_left_out(tmp_path, family):
    tiny.write_family(tmp_path, family)
    with_head = checkpoints.load(AutoModelForMaskedLM, tmp_path)  # which has no pooler
    with_head.save_pretrained(tmp_path)
    one, same_seed = (checkpoints.load(AutoModelForSequenceClassification, tmp_path, seed=1) for _ in range(2))
    body = checkpoints.load(AutoModel, tmp_path)
    assert same(one, same_seed)
    weights = with_head.base_model.state_dict()
    for model in (one.base_model, body):
        assert all(torch.equal(model.state_dict()[name], weight) for name, weight in weights.items())


def without(part: str):
    return lambda held: {name: weight for name, weight in held.items() if part not in name}


LAYERS = {family: names.layers for family, names in FAMILIES.items()}


@pytest.mark.parametrize(("family", "form"), [("bert", "pickle"), *((family, "safetensors") for family in FAMILIES)])
def test_a_missing_layer_is_refused_by_the_names_of_its_weights(tmp_path, rewrite, family, form):
    tiny.write_family(tmp_path, family)
    rewrite(without(f"{LAYERS[family]}.1."), form)
    message, count = refusal(tmp_path), 6 if family == "modernbert" else 16
    assert f"{count} missing ({LAYERS[family]}.1.att" in message and f" and {count - 3} more)" in message


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "modernbert"])  # it lists its layers
def test_more_layers_than_the_configuration_states_are_refused_by_name(tmp_path, rewrite, family):
    tiny.write_family(tmp_path, family)
    set_config(tmp_path, **{"n_layers" if family == "distilbert" else "num_hidden_layers": 3})
    body = FAMILIES[family].prefix or family
    rewrite(renamed(f"{body}."))
    assert f"16 unexpected ({body}.{LAYERS[family]}.3.attention." in refusal(tmp_path, AutoModelForMaskedLM)


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.has_positions])
def test_a_weight_of_another_shape_is_refused_with_both_shapes(tmp_path, rewrite, family):
    tiny.write_family(tmp_path, family)
    embeddings = "embeddings.position_embeddings.weight"
    width = load_file(tmp_path / "model.safetensors")[embeddings].shape[1]
    rewrite(lambda held: {**held, embeddings: held[embeddings][:48].clone(), "more.weight": held[embeddings].clone()})
    rows = 64 + FAMILIES[family].reserved_positions
    assert f"1 of another shape ({embeddings} (48, {width}) for ({rows}, {width}))" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed("strange."), "69 missing (embeddings.LayerNorm.bias, "),
        (renamed("strange."), "71 unexpected (strange.embeddings.LayerNorm.bias, "),
        (renamed("roberta."), "71 unexpected (roberta.embeddings.LayerNorm.bias, "),
        (lambda held: renamed("one.bert.")(held) | renamed("other.bert.")(held), "142 unexpected (one.bert.embeddings"),
        (
            lambda held: without("layer.1.")(held) | {"encoder.layer.1.lora_A": torch.ones(2)},
            "16 missing (encoder.layer.1.attention.",
        ),
        (
            lambda held: held | {"encoder.layer.1.adapter.weight": torch.ones(2)},
            "1 unexpected (encoder.layer.1.adapter",
        ),
        (
            lambda held: {**held, "encoder.layer.1.output.dense.bias": torch.full([24], torch.nan)},
            "1 of its weights are not finite (encoder.layer.1.output.dense.bias): its training diverged",
        ),
    ],
    ids=["other names", "other names, too", "another family", "two models", "lora", "adapter", "NaN"],
)
def test_weights_of_something_else_are_refused_by_name(tmp_path, change, message):
    tiny.write_checkpoint(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({name: weight.clone() for name, weight in change(load_file(file)).items()}, file)
    assert message in refusal(tmp_path)


@pytest.mark.parametrize(
    "held",
    [{"state_dict": {"weight": torch.ones(2)}, "epoch": 3}, {}, [torch.ones(2)]],
)
def test_a_file_that_holds_more_or_other_than_weights_is_refused(tmp_path, held):
    tiny.write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(held, tmp_path / "pytorch_model.bin")
    assert "pytorch_model.bin holds something other than weights by name" in refusal(tmp_path)


def test_an_adapter_is_refused(tmp_path):
    tiny.write_checkpoint(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "it has an adapter (adapter_config.json): save the merged model" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 10_000}, "config.json states 10000 layers, but there are 71 weights"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000 in config.json, but no weight has this size"),
        ({"hidden_size": 10**9}, "hidden_size is 1000000000 in config.json"),
        ({"intermediate_size": 10**9}, "intermediate_size is 1000000000 in config.json"),
        ({"max_position_embeddings": 10**9}, "max_position_embeddings is 1000000000 in config.json"),
        ({"type_vocab_size": 10**9}, "type_vocab_size is 1000000000 in config.json"),
        ({"num_labels": 10**9}, "num_labels is 1000000000 in config.json: expected at most 100000"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000 in config.json: expected at most 10000"),
        (
            {"hidden_size": "24"},
            "Validation error for field 'hidden_size': TypeError: Field 'hidden_size' expected int",
        ),
        ({"num_attention_heads": 0}, "integer modulo by zero"),
        ({"hidden_act": "strange"}, "KeyError 'strange'"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "bitsandbytes"),
    ],
)
def test_a_configuration_that_is_not_the_weights_is_refused_at_once(tmp_path, values, message):
    tiny.write_checkpoint(tmp_path)
    set_config(tmp_path, **values)
    start = time.monotonic()
    assert message in refusal(tmp_path)
    assert time.monotonic() - start < 2


def test_a_decoder_is_refused(tmp_path):
    tiny.write_checkpoint(tmp_path)
    set_config(tmp_path, is_decoder=True)
    with pytest.raises(UserError, match=rf"^{KEY}: is_decoder is true in config.json: expected an encoder"):
        checkpoints.load(AutoModel, tmp_path, KEY)


def test_settings_of_what_a_model_returns_do_not_matter(tmp_path):
    tiny.write_checkpoint(tmp_path)
    checkpoints.save(tmp_path / "plain", checkpoints.load(AutoModel, tmp_path))
    set_config(tmp_path, return_dict=False, output_attentions=True, output_hidden_states=True)
    model = checkpoints.load(AutoModel, tmp_path)
    outputs = model(torch.tensor([[2, 3]]))
    assert set(outputs.keys()) == {"last_hidden_state", "pooler_output"}
    checkpoints.save(tmp_path / "saved", model)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "saved" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
