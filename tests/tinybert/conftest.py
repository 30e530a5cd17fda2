import shutil
from pathlib import Path

import pytest
import tiny
import torch

from pipeline.tinybert.core.settings import Losses
from pipeline.tinybert.data import locations


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    """Stages read and write below the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def raw_world(in_empty_folder) -> Path:
    """The tiny world before any stage, and the working folder."""
    shutil.copy(tiny.ROOT / "params.yaml", in_empty_folder)
    tiny.write_world(in_empty_folder)
    return in_empty_folder


@pytest.fixture
def files_anywhere(monkeypatch):
    """Settings may name files in any folder; data/test_places.py tests which they may name."""
    monkeypatch.setattr(locations, "check_place", lambda *_: None)


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
def weights(request) -> Losses:
    """The weights of the intermediate losses, all 1 or the indirect parameter."""
    embeddings, hidden, attention = getattr(request, "param", (1, 1, 1))
    return Losses(embeddings=embeddings, hidden=hidden, attention=attention, relations=0)


@pytest.fixture
def optimiser_steps(monkeypatch):
    """What the optimiser did: its kind, the learning rate of each step, and the norm that gradients were clipped to."""
    seen = {"kinds": set(), "rates": [], "clipped": set()}
    step, clip = torch.optim.AdamW.step, torch.nn.utils.clip_grad_norm_

    def watched_step(self, *rest, **more):
        seen["kinds"].add(type(self))
        seen["rates"].append(self.param_groups[0]["lr"])
        return step(self, *rest, **more)

    def watched_clip(parameters, max_norm, *rest, **more):
        parameters = list(parameters)
        seen["clipped"].add((len(parameters), max_norm))
        return clip(parameters, max_norm, *rest, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched_step)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", watched_clip)
    return seen
