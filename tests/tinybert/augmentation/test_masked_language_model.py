import copy

import numpy as np
import pytest
import tiny
import torch

from pipeline.tinybert.augmentation.masked_language_model import MaskedWordObjective, MaskingCollator, train_head
from pipeline.tinybert.core.settings import MaskedLanguageModel
from pipeline.tinybert.models import dropout
from pipeline.tinybert.models.encoded_rows import EncodedRows

TEXTS = [text for text, _ in tiny.sentences(24, seed=4)]


def train(texts=TEXTS, seed=1, precision="float32", **changes):
    """A tiny model after the training of its head, the weights it began with, and the curve of the loss."""
    values = {"train": "always", "freeze_body": True, "steps": 4, "batch_size": 4, "max_length": 16}
    values |= {"masked_share": 0.15, "warmup": 0.1}
    text = {"location": "nowhere", "limit": 1}
    settings = MaskedLanguageModel.model_validate({**values, "learning_rate": 1e-2, "text": text, **changes})
    model = tiny.masked_language_model(layers=1)
    before = copy.deepcopy(model.state_dict())
    result = train_head(model, tiny.tokenizer(), texts, settings, tiny.numerics(seed, precision))
    return model, before, result.curves["loss"]


@pytest.fixture
def batches(monkeypatch):
    """The model inputs of each step, as they were before words were masked, and the masked places."""
    seen, plain = [], MaskedWordObjective.losses

    def watched(self, model, batch):
        masked = batch["labels"] != -100
        seen.append((torch.where(masked, batch["labels"], batch["input_ids"]).tolist(), masked.tolist()))
        return plain(self, model, batch)

    monkeypatch.setattr(MaskedWordObjective, "losses", watched)
    return seen


def changed(model, before) -> set[str]:
    return {name for name, weights in model.state_dict().items() if not torch.equal(weights, before[name])}


@pytest.mark.parametrize("freeze_body", [True, False])
def test_the_head_is_tied_to_the_input_embeddings_after_training(in_empty_folder, freeze_body):
    model, _, _ = train(freeze_body=freeze_body)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_masked_words_depend_on_the_seed_and_the_batch_and_not_on_the_batches_before():
    data = EncodedRows.in_memory(tiny.tokenizer()(TEXTS))
    collators = {seed: MaskingCollator(tiny.tokenizer(), masked_share=0.5, seed=seed) for seed in (1, 2)}

    def masked(numbers: range, seed: int) -> list[list[int]]:
        return collators[seed](data.batch(np.array(numbers)))["labels"].tolist()

    first = masked(range(8), 1)
    assert masked(range(8, 16), 1) != first
    assert masked(range(8), 1) == first != masked(range(8), 2)


def test_batches_of_other_words_are_masked_at_other_places():
    collate = MaskingCollator(tiny.tokenizer(), masked_share=0.5, seed=1)
    one, other = (EncodedRows.in_memory(tiny.tokenizer()([f"{word} " * 20] * 4)) for word in ("film", "plot"))
    places = [(collate(data.batch(np.arange(4)))["labels"] != -100).tolist() for data in (one, other)]
    assert places[0] != places[1]


def test_the_share_of_masked_words_is_the_setting():
    data = EncodedRows.in_memory(tiny.tokenizer()(TEXTS))
    labels = MaskingCollator(tiny.tokenizer(), masked_share=0.5, seed=1)(data.batch(np.arange(24)))["labels"]
    words = data.lengths.sum() - 2 * len(data)
    assert (labels != -100).sum() / words == pytest.approx(0.5, abs=0.1)


def test_training_stops_after_its_steps_in_the_middle_of_an_epoch_and_begins_further_epochs(in_empty_folder, batches):
    train(steps=4, batch_size=4)  # an epoch has six
    assert len(batches) == 4
    batches.clear()
    curve = train(steps=8, batch_size=4)[2]
    assert len(batches) == 8 and [step for step, _ in curve] == list(range(1, 9))
    first_epoch, second_epoch = batches[:6], batches[6:]
    assert all(ids not in [before for before, _ in first_epoch] for ids, _ in second_epoch)  # another order


def test_a_frozen_body_stays_to_the_bit_and_the_head_learns(in_empty_folder):
    model, before, _ = train(freeze_body=True)
    assert changed(model, before) == {
        "cls.predictions.bias",
        "cls.predictions.decoder.bias",
        "cls.predictions.transform.LayerNorm.bias",
        "cls.predictions.transform.LayerNorm.weight",
        "cls.predictions.transform.dense.bias",
        "cls.predictions.transform.dense.weight",
    }
    assert all(weights.requires_grad for weights in model.parameters())


def test_a_body_that_is_not_frozen_learns_too(in_empty_folder):
    model, before, _ = train(freeze_body=False)
    assert {"bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.output.dense.weight"} <= changed(
        model, before
    )


def test_training_lowers_the_loss(in_empty_folder):
    curve = train(steps=40, batch_size=8, freeze_body=False)[2]
    first, last = (sum(loss for _, loss in part) / 10 for part in (curve[:10], curve[-10:]))
    assert last < 0.8 * first


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(in_empty_folder):
    one, again, other = (train(seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(weights, again[name]) for name, weights in one.items())
    assert not all(torch.equal(weights, other[name]) for name, weights in one.items())


def test_the_seed_draws_the_order_of_the_texts(in_empty_folder, batches):
    train(seed=1), train(seed=2)
    assert [ids for ids, _ in batches[:4]] != [ids for ids, _ in batches[4:]]


def test_the_seed_draws_the_masked_words(in_empty_folder, batches):
    same = ["the film is a very good film with a great plot"] * 8
    train(same, seed=1), train(same, seed=2)
    assert [ids for ids, _ in batches[:4]] == [ids for ids, _ in batches[4:]]
    assert [masked for _, masked in batches[:4]] != [masked for _, masked in batches[4:]]


def test_the_loss_at_masked_positions_is_the_librarys_own(batch):
    model, inputs = tiny.masked_language_model(layers=1), batch([9, 5, 7], padding=2)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[[0, 0, 1, 2], [1, 8, 3, 6]] = torch.tensor([7, 8, 9, 10])
    expected = model(**inputs, labels=labels).loss
    parts, _ = MaskedWordObjective().losses(model, {**inputs, "labels": labels})
    torch.testing.assert_close(parts["loss"], expected)
    assert MaskedWordObjective().counts({"labels": labels})["loss"] == 4


def test_a_batch_without_a_masked_word_has_the_loss_0_and_a_gradient(batch):
    model, inputs = tiny.masked_language_model(layers=1), batch([5])
    parts, _ = MaskedWordObjective().losses(model, {**inputs, "labels": torch.full_like(inputs["input_ids"], -100)})
    loss = parts["loss"]
    loss.backward()
    assert loss.item() == 0
    assert not model.cls.predictions.transform.dense.weight.grad.any()


def test_dropout_is_off_in_a_frozen_body_and_on_in_one_that_learns(in_empty_folder, monkeypatch):
    calls, ours = [], dropout.drop_out
    monkeypatch.setattr(dropout, "drop_out", lambda *arguments: calls.append(arguments) or ours(*arguments))
    for freeze_body in (True, False):
        calls.clear()
        train(freeze_body=freeze_body, steps=1)
        assert bool(calls) != freeze_body


@pytest.mark.parametrize("max_length", [16, 500])
def test_texts_are_truncated_to_the_set_length_and_to_what_the_model_takes(in_empty_folder, batches, max_length):
    train(texts=["film plot " * 100] * 4, max_length=max_length, steps=1)
    [(ids, _)] = batches
    assert [len(row) for row in ids] == [min(max_length, 64)] * 4


def test_training_leaves_no_scratch_behind(in_empty_folder):
    train(steps=1)
    assert list((in_empty_folder / "models").iterdir()) == []
