import pytest
import tiny
import torch

from pipeline.tinybert import tasks
from pipeline.tinybert.settings import Losses

PAD = tiny.tokenizer().pad_token_id


@pytest.fixture
def task():
    return tasks.create("text_classification", ["negative", "positive"], "accuracy", 32)


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    """Stages read and write below the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def batch():
    """``batch(lengths, padding)``: random model inputs of these lengths, padded to the longest and by ``padding``."""

    def make(lengths, padding: int = 0) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(0)
        ids = torch.full((len(lengths), max(lengths) + padding), PAD)
        for row, length in enumerate(lengths):
            ids[row, :length] = torch.randint(5, len(tiny.tokenizer()), (length,), generator=draw)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "token_type_ids": torch.zeros_like(ids)}

    return make


@pytest.fixture
def scores_by_hand():
    """QKᵀ/√d of each layer from the layer's own query and key on the hidden states, (B, H, S, S)."""

    def compute(encoder, states) -> list[torch.Tensor]:
        heads = encoder.config.num_attention_heads
        scores = []
        for block, state in zip(encoder.encoder.layer, states[:-1], strict=True):
            attention = block.attention.self
            query, key = (
                linear(state).unflatten(-1, (heads, -1)).transpose(1, 2) for linear in (attention.query, attention.key)
            )
            scores.append(query @ key.transpose(-1, -2) / query.size(-1) ** 0.5)
        return scores

    return compute


@pytest.fixture
def weights():
    return lambda embeddings, hidden, attention: Losses(embeddings=embeddings, hidden=hidden, attention=attention)
