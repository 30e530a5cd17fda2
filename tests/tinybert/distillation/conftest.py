import tempfile

import pytest
import tiny
import torch
from tiny_distillation import TEXTS

from pipeline.tinybert.distillation import transfer_set
from pipeline.tinybert.models.encoded_rows import EncodedRows


@pytest.fixture
def data(in_empty_folder, task) -> EncodedRows:
    return transfer_set.encode(task, [{"text": text} for text in TEXTS], tiny.tokenizer(), tempfile.mkdtemp(dir="."))


@pytest.fixture
def products(monkeypatch) -> set[torch.dtype]:
    """The types in which linear layers have computed."""
    seen, linear = set(), torch.nn.functional.linear

    def watched(values, *rest):
        product = linear(values, *rest)
        seen.add(product.dtype)
        return product

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    return seen
