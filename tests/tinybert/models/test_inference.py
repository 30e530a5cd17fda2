import numpy as np
import pytest
import tiny
import torch
from torch import nn
from transformers import BertForSequenceClassification

from pipeline.tinybert.core import launch
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.models import inference
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.inference import EvaluationSet, class_logits, encode, pytorch_forward

ROWS = [{"text": text, "label": label} for text, label in tiny.sentences(13, seed=3)]
LENGTHS = [3, 1, 9, 2, 7, 14, 1, 8] * 9
TEXTS = [{"text": " ".join(["great film"] * length)} for length in LENGTHS]


@pytest.fixture
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(tiny.config(layers=2)).eval()


def logits_of(model, task, rows, **more) -> np.ndarray:
    with pytorch_forward(task, model) as forward:
        return np.concatenate(EvaluationSet(task, rows, tiny.tokenizer()).logits(forward, **more))


def plain_logits(model, rows) -> np.ndarray:
    """Row by row, without padding, by the library alone."""
    with torch.no_grad():
        outputs = [model(**tiny.tokenizer()(row["text"], return_tensors="pt")) for row in rows]
    return np.concatenate([found.logits.numpy() for found in outputs])


def test_texts_that_the_tokenizer_mostly_does_not_know_are_counted(task, capfd):
    encode(task, [{"text": text} for text in ("der Film war gut", "the film is gut", "a good film")], tiny.tokenizer())
    line = "1 of 3 texts are mostly unknown word pieces or single letters: is the encoder for their language?"
    assert capfd.readouterr().out.splitlines() == [line]


@pytest.mark.parametrize("batch_size", [1, 5, 64, 1000])
def test_logits_come_in_row_order_whatever_the_lengths(model, task, batch_size):
    expected = plain_logits(model, TEXTS)
    np.testing.assert_allclose(logits_of(model, task, TEXTS, batch_size=batch_size), expected, atol=1e-6)


def test_batches_hold_sequences_of_similar_lengths_the_longest_first(task):
    columns, sizes = encode(task, TEXTS, tiny.tokenizer()), []

    def forward(inputs):
        assert inputs.keys() == {"input_ids", "attention_mask", "token_type_ids"}
        sizes.append(tuple(inputs["input_ids"].shape))
        return torch.zeros(len(inputs["input_ids"]), 1, 2)

    data = EncodedRows.in_memory(columns)
    found = list(class_logits(forward, data, tiny.tokenizer(), np.arange(len(data)), batch_size=9))
    assert sizes == [(9, length + 2) for length in (28, 18, 16, 14, 6, 4, 2, 2)]
    assert sorted(np.concatenate([numbers for numbers, *_ in found])) == list(range(len(TEXTS)))


def test_batches_that_need_no_logits_are_not_computed(task):
    data = EncodedRows.in_memory(encode(task, TEXTS, tiny.tokenizer()))

    def some(numbers) -> bool:
        return len(set(numbers) & {1, 6}) > 0  # two of the shortest

    found = class_logits(
        lambda inputs: torch.zeros(len(inputs["input_ids"]), 1, 2), data, tiny.tokenizer(), np.arange(72), 9, skip=some
    )
    computed = np.concatenate([numbers for numbers, *_ in found])
    assert len(computed) == 63 and not {1, 6} & set(computed.tolist())


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches(model, task, processes, monkeypatch):
    data = EncodedRows.in_memory(encode(task, TEXTS, tiny.tokenizer()))
    monkeypatch.setattr(launch, "world_size", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(launch, "rank", lambda rank=rank: rank)
        with pytorch_forward(task, model) as forward:
            found = list(class_logits(forward, data, tiny.tokenizer(), np.arange(len(data)), batch_size=9))
        shares.append([numbers.tolist() for numbers, *_ in found])
    assert abs(len(shares[0]) - len(shares[-1])) <= 1
    assert sorted(sum(sum(shares, []), [])) == list(range(len(TEXTS)))


@pytest.mark.parametrize("training", [True, False])
def test_inference_is_in_evaluation_mode_without_gradients_and_leaves_the_mode_as_it_was(model, task, training):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    model.train(training)
    modes = []
    model.register_forward_hook(lambda module, *_: modes.append((module.training, torch.is_grad_enabled())))
    first, second = (logits_of(model, task, ROWS) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert set(modes) == {(False, False)} and model.training == training


def test_labels_have_no_part_in_inference(model, task):
    without = [{"text": row["text"]} for row in ROWS]
    np.testing.assert_array_equal(logits_of(model, task, ROWS), logits_of(model, task, without))


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_inference_computes_in_the_precision_it_is_given(model, task, monkeypatch, precision, dtype):
    seen, linear = set(), nn.functional.linear

    def watched(values, *rest):
        product = linear(values, *rest)
        seen.add(product.dtype)
        return product

    monkeypatch.setattr(nn.functional, "linear", watched)
    inputs = tiny.tokenizer()([row["text"] for row in ROWS], padding=True, return_tensors="pt")
    with pytorch_forward(task, model, precision) as forward:
        assert forward(inputs).shape == (len(ROWS), 1, 2)
    assert seen == {dtype}


def test_the_last_layer_computes_only_what_the_head_reads(model, task):
    sizes = []
    for block in model.bert.encoder.layer:
        block.output.dense.register_forward_hook(lambda module, inputs, states: sizes.append(states.size(1)))
    logits_of(model, task, ROWS[:1])
    first, last = sizes
    assert last == 1 < first


@pytest.mark.parametrize("kind", ["text_classification", "named_entities", "question_answering"])
def test_only_the_logits_that_count_are_returned(in_empty_folder, kind):
    labels = {"text_classification": ["a", "b"], "named_entities": ["O", "B-x"], "question_answering": []}[kind]
    task = tiny.task(labels, "accuracy" if kind == "text_classification" else "f1", kind=kind)
    row = {"text": "a good film", "words": ["a", "heartwarming", "film"], "question": "good", "passage": "a good film"}
    tiny.write_checkpoint(in_empty_folder / "encoder", layers=1)
    evaluation = EvaluationSet(task, [row, row], tiny.tokenizer())
    with pytorch_forward(task, task.load_model("encoder")) as forward:
        logits = evaluation.logits(forward)
    masks = evaluation.columns["label_mask"]
    assert [len(values) for values in logits] == [sum(mask) for mask in masks]
    assert len(logits[0]) < len(evaluation.columns["input_ids"][0])


def test_predictions_and_scores_are_those_of_the_logits(model, task):
    evaluation = EvaluationSet(task, ROWS, tiny.tokenizer())
    with pytorch_forward(task, model) as forward:
        logits = evaluation.logits(forward)
    predictions = [task.labels[number] for number in plain_logits(model, ROWS).argmax(axis=-1)]
    assert evaluation.predictions(logits) == predictions
    right = np.mean([row["label"] == predicted for row, predicted in zip(ROWS, predictions, strict=True)])
    assert evaluation.score(logits)["accuracy"] == pytest.approx(right)


def test_a_score_that_needs_a_threshold_is_the_best_one(task, monkeypatch):
    monkeypatch.setattr(type(task), "best_threshold", lambda self, rows, predictions: "negative")
    monkeypatch.setattr(
        type(task), "apply_threshold", lambda self, predictions, threshold: [threshold] * len(predictions)
    )
    logits = [np.array([[0.0, 1.0]])] * len(ROWS)
    negative = np.mean([row["label"] == "negative" for row in ROWS])
    assert EvaluationSet(task, ROWS, tiny.tokenizer()).score(logits)["accuracy"] == pytest.approx(negative)


def test_a_length_beyond_the_model_s_is_an_error_that_names_the_setting(task):
    task.max_length = 65
    with pytest.raises(UserError, match=r"max_length: 65: .* 64 word pieces"):
        inference.encode(task, ROWS, tiny.tokenizer())


def test_an_empty_file_of_rows_is_refused(task):
    with pytest.raises(UserError, match="is empty: run `dvc repro`, which writes it again"):
        encode(task, [], tiny.tokenizer())
