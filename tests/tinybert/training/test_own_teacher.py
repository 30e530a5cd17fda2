import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
)

from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.models import memory
from pipeline.tinybert.models.families import FAMILIES, TEACHER_FAMILIES
from pipeline.tinybert.training import own_teacher

NAMES = ["negative", "neutral", "positive"]


@pytest.fixture
def encoder(in_empty_folder):
    tiny.write_checkpoint(in_empty_folder / "encoder", layers=1)
    return in_empty_folder / "encoder"


def own(head: type, labels: list[str], folder: str = "own", **more):
    """A fine-tuned model of the user's, in a folder of this name."""
    torch.manual_seed(1)
    names = dict(enumerate(labels))
    model = head(tiny.config(layers=2, num_labels=len(labels) or 2, **more)).eval()
    if labels:
        model.config.id2label, model.config.label2id = names, {name: index for index, name in names.items()}
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("head", "kind", "metric", "names"),
    [
        (BertForSequenceClassification, "text_classification", "accuracy", NAMES),
        (BertForTokenClassification, "named_entities", "f1", ["O", "B-film", "I-film"]),
    ],
)
def test_outputs_are_put_in_the_order_of_the_task_s_labels_by_name(encoder, head, kind, metric, names):
    theirs = [names[2], names[0], names[1]]
    model = own(head, theirs)
    loaded, tokenizer = own_teacher.load(tiny.task(names, metric, kind=kind), "own", Path())
    inputs = tokenizer("a good film", return_tensors="pt")
    with torch.no_grad():
        expected, found = model(**inputs).logits, loaded(**inputs).logits
    torch.testing.assert_close(found, expected[..., [theirs.index(name) for name in names]])
    assert loaded.config.id2label == dict(enumerate(names))


@pytest.mark.parametrize("family", [*FAMILIES, *TEACHER_FAMILIES])
def test_a_teacher_of_every_family_is_taken_and_its_labels_are_put_in_order(in_empty_folder, family):
    tiny.write_family(in_empty_folder / "encoder", family)
    theirs = {0: "positive", 1: "negative"}
    loader, task = AutoModelForSequenceClassification, tiny.task(["negative", "positive"])
    model = loader.from_pretrained("encoder", id2label=theirs, label2id={name: n for n, name in theirs.items()}).eval()
    shutil.copytree("encoder", "own")
    model.save_pretrained("own")
    loaded, tokenizer = own_teacher.load(task, "own", Path())
    inputs = tokenizer("a good film", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits[:, [1, 0]])


def test_a_teacher_of_numbers_or_of_answers_needs_no_names(encoder):
    own(BertForSequenceClassification, ["LABEL_0"])
    loaded, _ = own_teacher.load(tiny.task(["score"], "pearson", kind="regression"), "own", Path())
    assert loaded.config.problem_type == "regression"
    own(BertForQuestionAnswering, [], "answers")
    own_teacher.load(tiny.task([], "f1", kind="question_answering"), "answers", Path())


@pytest.mark.parametrize(
    ("head", "labels", "message"),
    [
        (BertForSequenceClassification, ["LABEL_0", "LABEL_1", "LABEL_2"], "has the labels LABEL_0, LABEL_1, LABEL_2 "),
        (BertForSequenceClassification, NAMES[:2], "has the labels negative, neutral .* the task has"),
        (BertForTokenClassification, NAMES, "holds a BertForTokenClassification, expected a BertForSequenceClassif"),
        (BertModel, [], "holds a BertModel, expected a BertForSequenceClassification"),
    ],
)
def test_a_teacher_with_another_head_or_other_labels_is_refused(encoder, head, labels, message):
    own(head, labels)
    with pytest.raises(UserError, match=f"^finetune_teacher.checkpoint: own {message}"):
        own_teacher.load(tiny.task(NAMES), "own", Path())


@pytest.mark.parametrize(
    ("stated", "kind", "metric"),
    [
        ("single_label_classification", "multi_label", "micro_f1"),
        ("multi_label_classification", "text_classification", "accuracy"),
        ("regression", "text_classification", "accuracy"),
    ],
)
def test_a_teacher_that_was_trained_for_another_kind_of_labels_is_refused(encoder, stated, kind, metric):
    own(BertForSequenceClassification, NAMES, problem_type=stated)
    with pytest.raises(UserError, match=rf"^finetune_teacher.checkpoint: own was trained for {stated} \(problem_type"):
        own_teacher.load(tiny.task(NAMES, metric, kind=kind), "own", Path())


@pytest.mark.parametrize("names", [{"1": "negative", "2": "neutral", "3": "positive"}, {str(n): [n] for n in range(3)}])
def test_a_teacher_with_odd_names_of_labels_is_refused(encoder, names):
    own(BertForSequenceClassification, NAMES)
    config = json.loads(Path("own", "config.json").read_text())
    Path("own", "config.json").write_text(json.dumps(config | {"id2label": names}))
    with pytest.raises(UserError, match="^finetune_teacher.checkpoint: own has the labels .* rename the labels of one"):
        own_teacher.load(tiny.task(NAMES), "own", Path())


def rewrite(change) -> None:
    file = Path("own", "model.safetensors")
    save_file(change(load_file(file)), file)


def test_a_teacher_s_weights_that_were_saved_from_a_wrapper_are_taken_and_this_is_said(encoder, capfd):
    model = own(BertForSequenceClassification, NAMES)
    rewrite(lambda held: {f"module.{name}": weight for name, weight in held.items()})
    loaded, _ = own_teacher.load(tiny.task(NAMES), "own", Path())
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)
    line = "finetune_teacher.checkpoint: the names of the weights begin with 'module.', which is left out"
    assert capfd.readouterr().out.splitlines() == [line]


def without(part: str):
    return lambda held: {name: weight for name, weight in held.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layer.1."), r"cannot be loaded: .* 16 missing \(bert.encoder.layer.1.attention"),
        (without("pooler"), "lacks weights of a BertForSequenceClassification: bert.pooler.dense.bias, bert.pooler"),
        (without("classifier.weight"), "lacks weights of a BertForSequenceClassification: classifier.weight: save"),
        (
            lambda held: {name.replace("classifier", "classifier.0"): weight for name, weight in held.items()},
            "lacks weights of a BertForSequenceClassification: classifier.bias, classifier.weight: save",
        ),
        (
            lambda held: {**held, "crf.transitions": torch.ones(3, 3)},
            "has weights that are not those of a BertForSequenceClassification: crf.transitions: save",
        ),
        (
            lambda held: {**held, "classifier.weight": torch.ones(2, 24)},
            r"cannot be loaded: .* 1 of another shape \(classifier.weight \(2, 24\) for \(3, 24\)\)",
        ),
    ],
    ids=["a layer", "the pooler", "a part of the head", "another head", "more than a head", "other labels"],
)
def test_a_teacher_whose_weights_do_not_fit_is_refused_by_their_names(encoder, change, message):
    own(BertForSequenceClassification, NAMES)
    rewrite(change)
    with pytest.raises(UserError, match=f"^finetune_teacher.checkpoint: own {message}"):
        own_teacher.load(tiny.task(NAMES), "own", Path())


def test_a_language_model_s_head_beside_the_teacher_s_is_left_out(encoder):
    own(BertForSequenceClassification, NAMES)
    rewrite(lambda held: {**held, "cls.predictions.bias": torch.ones(57)})
    own_teacher.load(tiny.task(NAMES), "own", Path())


@pytest.mark.parametrize("family", [*FAMILIES, *TEACHER_FAMILIES])
def test_an_encoder_of_every_family_is_taken_for_the_teacher(in_empty_folder, files_anywhere, family):
    tiny.write_family(Path("theirs"), family)
    folder, tokenizer = own_teacher.encoder("theirs")
    model = tiny.task(NAMES).load_model(folder)
    inputs = tokenizer(["a good film", "film"], ["a film", "not bad"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert model(**inputs).logits.shape == (2, 3)
    assert tokenizer.model_max_length == 64


def test_a_word_is_read_alike_within_a_text_and_alone(in_empty_folder, files_anywhere):
    """A byte-level tokenizer of ModernBERT's kind would give words in a list no space before them."""
    tiny.write_family(Path("theirs"), "modernbert")
    _, tokenizer = own_teacher.encoder("theirs")
    assert (
        tokenizer(["a", "good", "film"], is_split_into_words=True)["input_ids"] == tokenizer("a good film")["input_ids"]
    )


def test_a_family_that_no_teacher_may_have_is_refused_by_name(in_empty_folder, files_anywhere):
    GPT2Config().save_pretrained("theirs")
    known = ", ".join([*FAMILIES, *TEACHER_FAMILIES])
    with pytest.raises(UserError, match=f"^finetune_teacher.encoder: model family 'gpt2' is not .* one of {known}$"):
        own_teacher.encoder("theirs")


@pytest.mark.parametrize(("part", "bytes_each", "what"), [("encoder", 16, "train"), ("load", 4, "load")])
def test_a_teacher_for_which_the_memory_is_too_small_is_refused_with_what_it_needs(
    encoder, files_anywhere, monkeypatch, part, bytes_each, what
):
    model = own(BertForSequenceClassification, NAMES, hidden=240, feed_forward=2400)
    needed = bytes_each * model.num_parameters()
    call = {
        "encoder": lambda: own_teacher.encoder("own"),
        "load": lambda: own_teacher.load(tiny.task(NAMES), "own", Path()),
    }
    monkeypatch.setattr(memory, "available", lambda: needed)
    call[part]()
    monkeypatch.setattr(memory, "available", lambda: needed - 1)
    expected = f"^finetune_teacher.*: the model has 3 M parameters: to {what} it takes {needed / 1e9:.1f} GB of memory"
    with pytest.raises(UserError, match=expected):
        call[part]()
