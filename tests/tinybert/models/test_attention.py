import copy

import pytest
import tiny
import torch
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, BertModel

from pipeline.tinybert.models import attention
from pipeline.tinybert.models.attention import attention_scores, first_position_only, our_attention
from pipeline.tinybert.models.families import FAMILIES, layers
from pipeline.tinybert.models.precision import autocast

LENGTHS = [(5,), (1, 1), (12, 3, 7), (9, 9)]
PADDING = [0, 4]


def pair(kind=BertModel):
    """The same random model twice: eager, and attending by our function."""
    torch.manual_seed(0)
    eager = kind(tiny.config(layers=3, attn_implementation="eager")).eval()
    return eager, our_attention(copy.deepcopy(eager))


@pytest.mark.parametrize("layers", [(), (2,), (1, 2, 3)])
@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_logits_equal_those_of_eager_attention(batch, lengths, padding, layers):
    eager, ours = pair(BertForSequenceClassification)
    inputs = batch(lengths, padding)
    with attention_scores(layers):
        logits = ours(**inputs).logits
    torch.testing.assert_close(logits, eager(**inputs).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_scores_equal_queries_times_keys_before_softmax(batch, scores_by_hand, lengths, padding):
    eager, ours = pair()
    inputs = batch(lengths, padding)
    with attention_scores([1, 2, 3]) as scores:
        ours(**inputs)
    expected = scores_by_hand(eager, eager(**inputs, output_hidden_states=True).hidden_states)
    for layer, by_hand in enumerate(expected, start=1):
        torch.testing.assert_close(scores[layer], by_hand, atol=1e-6, rtol=0)


def test_only_the_layers_asked_for_are_kept(batch):
    ours = pair()[1]
    with attention_scores([3, 1]) as scores:
        ours(**batch((4, 6)))
    assert sorted(scores) == [1, 3]


def test_nothing_is_kept_after_the_block(batch):
    ours = pair()[1]
    with attention_scores([1]) as scores:
        ours(**batch((4,)))
    kept = scores[1].clone()
    ours(**batch((6,)))
    torch.testing.assert_close(scores[1], kept, atol=0, rtol=0)


def test_a_block_within_another_fills_its_own_scores(batch):
    ours = pair()[1]
    with attention_scores([1]) as outer:
        with attention_scores([2]) as inner:
            ours(**batch((6,)))
        ours(**batch((4,)))
    assert [scores.size(-1) for scores in (outer[1], inner[2])] == [4, 6]


def test_scores_of_a_model_that_learns_carry_its_gradient(batch):
    ours = pair()[1]
    with attention_scores([2]) as scores:
        ours(**batch((6, 4)))
    scores[2].square().sum().backward()
    assert ours.encoder.layer[1].attention.self.key.weight.grad.abs().sum() > 0
    assert ours.embeddings.word_embeddings.weight.grad.abs().sum() > 0
    assert ours.encoder.layer[1].attention.self.value.weight.grad is None


@pytest.mark.parametrize("layers", [(), (1, 2, 3)])
def test_attention_dropout_acts_in_training_only(batch, layers):
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
    """In what the library's SDPA attention has computed, a type for each layer."""
    used, theirs = [], attention.sdpa_attention_forward

    def watched(module, query, *rest, **more):
        used.append(query.dtype)
        return theirs(module, query, *rest, **more)

    monkeypatch.setattr(attention, "sdpa_attention_forward", watched)
    return used


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_learns_what_it_learns_by_the_library_s_attention(batch, kernels, precision):
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


def test_what_does_not_learn_attends_by_the_library_s_kernel(batch, kernels):
    ours = pair()[1]
    with torch.no_grad(), autocast("bfloat16", torch.device("cpu")):
        ours(**batch((6, 4)))
    assert kernels == [torch.bfloat16] * 3


def test_a_saved_model_does_not_ask_for_this_attention(tmp_path):
    pair()[1].save_pretrained(tmp_path)
    loaded = BertModel.from_pretrained(tmp_path)
    assert "tinybert" not in (tmp_path / "config.json").read_text()
    assert loaded.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_over_whole_texts_answers_and_learns_the_same_from_the_first_position_alone(family):
    torch.manual_seed(0)
    config = tiny.config(family=family, layers=3)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    inputs = {"input_ids": torch.randint(5, 50, (3, 8)), "attention_mask": torch.ones(3, 8, dtype=torch.long)}
    inputs["attention_mask"][1, 5:] = 0

    def answered_and_learned():
        model.zero_grad()
        logits = model(**inputs).logits
        logits.square().sum().backward()
        return logits.detach(), [weights.grad.clone() for weights in model.parameters() if weights.grad is not None]

    expected = answered_and_learned()
    with first_position_only(model):
        torch.testing.assert_close(answered_and_learned(), expected)
        sizes = {tuple(layer(torch.zeros(3, 8, config.hidden_size)).shape) for layer in layers(model.base_model)}
        assert sizes == {(3, 8, config.hidden_size), (3, 1, config.hidden_size)}
    torch.testing.assert_close(answered_and_learned(), expected, atol=0, rtol=0)  # as before
