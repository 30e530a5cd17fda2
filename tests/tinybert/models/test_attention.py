import copy
from functools import partial

import pytest
import tiny
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, BertForSequenceClassification, BertModel

from pipeline.tinybert.models import attention
from pipeline.tinybert.models.attention import attention_scores, first_position_only, our_attention
from pipeline.tinybert.models.families import FAMILIES, layers
from pipeline.tinybert.models.precision import autocast

BATCHES = pytest.mark.parametrize(("lengths", "padding"), [((5,), 0), ((1, 1), 4), ((12, 3, 7), 0), ((9, 9), 4)])


def pair(kind=BertModel):
    """Two copies of a random model: one with eager attention, one with ours."""
    torch.manual_seed(0)
    eager = kind(tiny.config(layers=3, attn_implementation="eager")).eval()
    return eager, our_attention(copy.deepcopy(eager))


@BATCHES
def test_logits_equal_those_of_eager_attention_whichever_layers_are_captured(batch, lengths, padding):
    eager, ours = pair(BertForSequenceClassification)
    inputs = batch(lengths, padding)
    expected = eager(**inputs).logits
    for captured in ((), (2,), (1, 2, 3)):
        with attention_scores(captured):
            torch.testing.assert_close(ours(**inputs).logits, expected, atol=1e-6, rtol=0)


@BATCHES
def test_scores_equal_queries_times_keys_before_softmax(batch, scores_by_hand, lengths, padding):
    eager, ours = pair()
    inputs = batch(lengths, padding)
    with attention_scores([1, 2, 3]) as scores:
        ours(**inputs)
    expected = scores_by_hand(eager, eager(**inputs, output_hidden_states=True).hidden_states)
    for layer, by_hand in enumerate(expected, start=1):
        torch.testing.assert_close(scores[layer], by_hand, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_that_the_softmax_of_the_family_reads(tmp_path, batch, family):
    tiny.write_family(tmp_path, family)
    model = AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    inputs = {name: batch((12, 3, 7))[name] for name in ("input_ids", "attention_mask")}
    attentions = model(**inputs, output_attentions=True).attentions
    our_attention(our_attention(model))  # asked for by each stage that uses the model
    with attention_scores([1, 2, 4]) as scores:
        model(**inputs)
    assert sorted(scores) == [1, 2, 4]
    for layer, found in scores.items():
        weights, real = attentions[layer - 1], inputs["attention_mask"].bool()
        read = found.masked_fill(weights == 0, -torch.inf)  # without padding and, in local attention, far positions
        torch.testing.assert_close(
            read.softmax(-1).transpose(1, 2)[real], weights.transpose(1, 2)[real], atol=1e-6, rtol=0
        )


def test_local_attention_of_modernbert_stays_local_where_ours_computes_it(tmp_path, batch):
    tiny.write_family(tmp_path, "modernbert")
    models = [AutoModel.from_pretrained(tmp_path, attn_implementation="eager") for _ in range(2)]
    inputs = {name: batch((12, 3, 7))[name] for name in ("input_ids", "attention_mask")}
    eager, ours = models[0], our_attention(models[1])
    weights = dict(zip(eager.config.layer_types, eager(**inputs, output_attentions=True).attentions, strict=True))
    assert (weights["sliding_attention"][0, :, 0, 8:] == 0).all() and (weights["full_attention"][0, :, 0, 8:] > 0).all()
    for captured in ((), (1, 2, 3, 4)):  # by the kernel and explicitly
        with attention_scores(captured):
            states = ours(**inputs).last_hidden_state
        real = inputs["attention_mask"].bool()
        torch.testing.assert_close(states[real], eager(**inputs).last_hidden_state[real], atol=1e-5, rtol=0)


def test_nothing_is_captured_after_the_block(batch):
    ours = pair()[1]
    with attention_scores([1]) as scores:
        ours(**batch((4,)))
    captured = scores[1].clone()
    ours(**batch((6,)))
    torch.testing.assert_close(scores[1], captured, atol=0, rtol=0)


def test_nested_blocks_each_capture_their_own_scores(batch):
    ours = pair()[1]
    with attention_scores([1]) as outer:
        with attention_scores([2]) as inner:
            ours(**batch((6,)))
        ours(**batch((4,)))
    assert [scores.size(-1) for scores in (outer[1], inner[2])] == [4, 6]


def test_captured_scores_carry_gradients(batch):
    ours = pair()[1]
    with attention_scores([2]) as scores:
        ours(**batch((6, 4)))
    scores[2].square().sum().backward()
    assert ours.encoder.layer[1].attention.self.key.weight.grad.abs().sum() > 0
    assert ours.embeddings.word_embeddings.weight.grad.abs().sum() > 0
    assert ours.encoder.layer[1].attention.self.value.weight.grad is None


@pytest.mark.parametrize("layers", [(), (1, 2, 3)])
def test_attention_dropout_is_on_in_training_only(batch, layers):
    ours = pair()[1]
    for block in ours.encoder.layer:
        block.attention.self.dropout.p = 0.5
    inputs = batch((8, 5))

    def states():
        with attention_scores(layers):
            return ours(**inputs).last_hidden_state

    torch.testing.assert_close(states(), states(), atol=0, rtol=0)
    ours.train()
    assert not torch.allclose(states(), states())


@pytest.fixture
def kernels(monkeypatch) -> list[torch.dtype]:
    """The dtype of each call of the library's SDPA attention, one per layer."""
    used, sdpa = [], attention.sdpa_attention_forward

    def watched(module, query, *rest, **more):
        used.append(query.dtype)
        return sdpa(module, query, *rest, **more)

    monkeypatch.setattr(attention, "sdpa_attention_forward", watched)
    return used


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradients_equal_those_of_eager_attention(batch, kernels, precision):
    eager, ours = pair()
    inputs = batch((9, 5, 7), padding=2)
    gradients = []
    for model in (eager, ours):
        with autocast(precision, torch.device("cpu")):
            states = model(**inputs).last_hidden_state
        states[inputs["attention_mask"].bool()].float().square().mean().backward()
        gradients.append(torch.cat([weights.grad.flatten() for weights in model.encoder.parameters()]))
    assert len(kernels) == (3 if precision == "float32" else 0)
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > (0.9999 if precision == "float32" else 0.999)
    torch.testing.assert_close(gradients[0].norm(), gradients[1].norm(), rtol=1e-2, atol=0)


def test_inference_in_bfloat16_uses_the_sdpa_kernel(batch, kernels):
    ours = pair()[1]
    with torch.no_grad(), autocast("bfloat16", torch.device("cpu")):
        ours(**batch((6, 4)))
    assert kernels == [torch.bfloat16] * 3


def test_a_saved_model_loads_with_the_librarys_default_attention(tmp_path):
    pair()[1].save_pretrained(tmp_path)
    loaded = BertModel.from_pretrained(tmp_path)
    assert "tinybert" not in (tmp_path / "config.json").read_text()
    assert loaded.config._attn_implementation == "sdpa"


@pytest.fixture
def classifier(tmp_path):
    """``classifier(family)``: a text classifier, a batch of three texts, one of them padded, and the number of
    positions of each layer's result in the last forward.
    """

    def make(family: str):
        tiny.write_family(tmp_path, family)
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        inputs = {"input_ids": torch.randint(5, 50, (3, 8)), "attention_mask": torch.ones(3, 8, dtype=torch.long)}
        inputs["attention_mask"][1, 5:] = 0
        computed = {}

        def count(number: int, layer, given, result) -> None:
            states = result[0] if isinstance(result, tuple) else result
            computed[number] = states.size(1)

        for number, layer in enumerate(layers(model.base_model)):
            layer.register_forward_hook(partial(count, number))
        return model, inputs, computed

    return make


def positions(family: str) -> list[int]:
    """Of each layer within ``first_position_only``."""
    return [8, 8, 8, 8 if family in ("mpnet", "modernbert") else 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_first_position_only_keeps_logits_and_gradients(classifier, family):
    model, inputs, computed = classifier(family)

    def logits_and_gradients():
        model.zero_grad()
        logits = model(**inputs).logits
        logits.square().sum().backward()
        return logits.detach(), [weights.grad.clone() for weights in model.parameters() if weights.grad is not None]

    expected = logits_and_gradients()
    with first_position_only(model):
        torch.testing.assert_close(logits_and_gradients(), expected, atol=1e-5, rtol=1e-4)
        assert [*computed.values()] == positions(family)
    torch.testing.assert_close(logits_and_gradients(), expected, atol=0, rtol=0)  # unchanged after the block


@pytest.mark.parametrize("family", FAMILIES)
def test_first_position_only_may_be_nested(classifier, family):
    model, inputs, computed = classifier(family)
    implementation = model.config._attn_implementation
    expected = model(**inputs).logits
    with first_position_only(model):
        with first_position_only(model):
            torch.testing.assert_close(model(**inputs).logits, expected)
        torch.testing.assert_close(model(**inputs).logits, expected)
        assert [*computed.values()] == positions(family)  # the outer block is still active
    torch.testing.assert_close(model(**inputs).logits, expected)
    assert [*computed.values()] == [8, 8, 8, 8]
    assert model.config._attn_implementation == implementation


def flash_attention_by_hand(query, key, value, query_bounds, bounds, longest_query, longest, dropout, *_, scale):
    """What torch's operator computes on a GPU: attention within each segment of packed states (T, H, D)."""
    assert query_bounds.dtype == bounds.dtype == torch.int32 and dropout == 0
    attended = torch.zeros_like(query)
    for number in range(len(bounds) - 1):
        own, others = (slice(*ends[number : number + 2].tolist()) for ends in (query_bounds, bounds))
        assert own.stop - own.start <= longest_query and others.stop - others.start <= longest
        scores = torch.einsum("qhd,khd->hqk", query[own], key[others]) * scale
        attended[own] = torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), value[others])
    return attended, None, None, None, None


@pytest.mark.parametrize("first_position", [False, True])
def test_flash_attention_attends_to_the_real_positions_of_each_sequence(monkeypatch, first_position):
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", flash_attention_by_hand)
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 2, 7, 8).unbind()
    mask = torch.arange(7) < torch.tensor([[7], [3], [1], [6]])
    if first_position:
        query = query[:, :, :1]
    segments = attention.segments_of(mask)
    attended = attention._flash_attention(segments, query, key, value, dropout=0.0, scaling=0.3)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask[:, None, None], scale=0.3)
    real = mask[:, : query.size(2)]
    torch.testing.assert_close(attended[real], expected.transpose(1, 2)[real])
