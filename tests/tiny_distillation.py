"""Students, teachers and texts for the distillation stages, all small."""

import copy
import tempfile

import numpy as np
import tiny
import torch
from torch import nn
from transformers import BertForSequenceClassification, BertModel

from pipeline.tinybert.distillation.teacher_logits import TeacherLogits

TASK = tiny.task(["negative", "positive"])
TEXTS = [" ".join(["good film", "the plot was dull"][row % 2] for _ in range(1 + row % 4)) for row in range(10)]


def make_student(**shape) -> BertModel:
    torch.manual_seed(1)
    return BertModel(tiny.config(**{"layers": 2, **shape}))


def make_classifier(**shape) -> BertForSequenceClassification:
    torch.manual_seed(3)
    return BertForSequenceClassification(tiny.config(**{"layers": 2, **shape}))


def make_teacher(dropout: float = 0.0, **shape) -> BertForSequenceClassification:
    torch.manual_seed(2)
    teacher = BertForSequenceClassification(tiny.config(**{"layers": 4, "hidden": 32, **shape}))
    for module in teacher.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return teacher.train()


def plain_logits(model) -> np.ndarray:
    """The logits of TEXTS: one row at a time, without padding, by the library alone."""
    model = copy.deepcopy(model).eval()
    model.set_attn_implementation("eager")
    tokenizer = tiny.tokenizer()
    with torch.no_grad():
        return np.concatenate([model(**tokenizer(text, return_tensors="pt")).logits.numpy() for text in TEXTS])


def no_logits() -> TeacherLogits:
    """Files in the working folder for logits of TEXTS, none of them computed."""
    return TeacherLogits.create(tempfile.mkdtemp(dir="."), np.ones(len(TEXTS), dtype=np.uint16), 2)
