import shutil
from pathlib import Path

import pytest
import tiny
import torch
from transformers import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from pipeline.tinybert.core.errors import UserError
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
    loaded, tokenizer = own_teacher.load(tiny.task(names, metric, kind=kind), "own", encoder, Path())
    inputs = tokenizer("a good film", return_tensors="pt")
    with torch.no_grad():
        expected, found = model(**inputs).logits, loaded(**inputs).logits
    torch.testing.assert_close(found, expected[..., [theirs.index(name) for name in names]])
    assert loaded.config.id2label == dict(enumerate(names))


def test_a_teacher_of_numbers_or_of_answers_needs_no_names(encoder):
    own(BertForSequenceClassification, ["LABEL_0"])
    loaded, _ = own_teacher.load(tiny.task(["score"], "pearson", kind="regression"), "own", encoder, Path())
    assert loaded.config.problem_type == "regression"
    own(BertForQuestionAnswering, [], "answers")
    own_teacher.load(tiny.task([], "f1", kind="question_answering"), "answers", encoder, Path())


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
        own_teacher.load(tiny.task(NAMES), "own", encoder, Path())


def test_a_teacher_with_another_vocabulary_is_refused(encoder):
    own(BertForSequenceClassification, NAMES)
    vocabulary = {**tiny.tokenizer().get_vocab(), "more": len(tiny.tokenizer())}
    type(tiny.tokenizer())(vocab=vocabulary).save_pretrained("own")
    with pytest.raises(UserError, match="^encoder.checkpoint: the student's vocabulary .* is not the teacher's"):
        own_teacher.load(tiny.task(NAMES), "own", encoder, Path())


def test_a_teacher_of_another_family_is_refused(encoder):
    own(BertForSequenceClassification, NAMES)
    shutil.rmtree(encoder)
    tiny.write_family(encoder, "electra")
    with pytest.raises(UserError, match="a model of the family 'bert', but the encoder's, .* is 'electra'"):
        own_teacher.load(tiny.task(NAMES), "own", encoder, Path())
