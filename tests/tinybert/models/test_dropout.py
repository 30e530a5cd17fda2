import pytest
import tiny
import torch
from torch import nn
from transformers import AutoModel, BertForSequenceClassification

from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.dropout import drop_out, our_dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.999999])
def test_each_value_is_zeroed_with_the_probability_or_scaled_so_that_the_mean_stays(dtype, probability):
    torch.manual_seed(0)
    values = torch.full((999, 1001), 2.0, dtype=dtype)
    found = drop_out(values, probability)
    assert found.dtype == dtype and found.shape == values.shape
    share = (found == 0).float().mean().item()
    deviation = (probability * (1 - probability) / values.numel()) ** 0.5
    assert abs(share - probability) < 5 * deviation + 2**-16  # the probability is rounded
    if probability < 0.9:
        scaled = torch.tensor(2 / (1 - probability)).to(dtype)
        torch.testing.assert_close(
            found[found != 0].unique(), scaled[None], rtol=1e-2 if dtype != torch.float32 else 1e-4, atol=0
        )
        rows = (found == 0).float().mean(dim=1)
        assert rows.std().item() == pytest.approx((probability * (1 - probability) / 1001) ** 0.5, rel=0.2)


def test_gradients_pass_where_values_did():
    torch.manual_seed(0)
    values = torch.rand(7, 5, requires_grad=True)
    found = drop_out(values, 0.4)
    found.backward(torch.ones(7, 5))
    torch.testing.assert_close(values.grad * values, found)
    assert (values.grad == 0).any() and (values.grad > 1).any()


def test_the_state_of_the_generator_decides():
    values = torch.ones(4, 3)
    torch.manual_seed(1)
    first, second = drop_out(values, 0.5), drop_out(values, 0.5)
    torch.manual_seed(1)
    again = drop_out(values, 0.5)
    assert torch.equal(first, again) and not torch.equal(first, second)


@pytest.mark.parametrize("shape", [(0, 3), (1,), (3,), (4,), (2, 2, 5)])
def test_any_number_of_values(shape):
    assert drop_out(torch.ones(shape), 0.5).shape == shape


def test_no_dropout_leaves_values_and_generator_as_they_are():
    values, state = torch.rand(3), torch.get_rng_state()
    assert drop_out(values, 0.0) is values
    assert torch.equal(torch.get_rng_state(), state)


def test_all_dropout_layers_of_a_model_are_replaced_and_follow_its_mode(batch, monkeypatch):
    model = BertForSequenceClassification(tiny.config(layers=2)).eval()
    inputs = batch((5, 3))
    expected = model(**inputs).logits
    our_dropout(model)
    torch.testing.assert_close(model(**inputs).logits, expected, atol=0, rtol=0)

    def slow(*arguments, **more):
        raise AssertionError("torch's dropout was called")

    monkeypatch.setattr(nn.functional, "dropout", slow)
    model.train()
    checkpoints.set_dropout(model, 0.5)
    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)


def test_the_setting_is_also_for_the_attention_of_modernbert(tmp_path, batch):
    tiny.write_family(tmp_path, "modernbert")
    model = AutoModel.from_pretrained(tmp_path, attention_dropout=0.5).train()
    inputs = {name: batch((5, 3))[name] for name in ("input_ids", "attention_mask")}
    assert not torch.equal(*(model(**inputs).last_hidden_state for _ in range(2)))
    checkpoints.set_dropout(model, 0.0)
    assert torch.equal(*(model(**inputs).last_hidden_state for _ in range(2)))
