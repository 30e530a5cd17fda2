"""Embeddings of texts: the mean of a model's last states, as sentence encoders are trained to be read."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from pipeline.tinybert.models.inference import BATCH

LONGEST = 256  # word pieces of a text


@torch.no_grad()
def mean_embeddings(model: PreTrainedModel, tokenizer, texts: list[str]) -> np.ndarray:
    """The mean of the last states over a text's word pieces, scaled to unit norm: (texts, D)."""
    model.eval()
    longest = min(LONGEST, tokenizer.model_max_length)
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    found = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(texts), BATCH):
        numbers = order[start : start + BATCH]
        some = [texts[number] for number in numbers]
        batch = tokenizer(some, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        inputs = {name: batch[name].to(model.device) for name in tokenizer.model_input_names}
        states = model(**inputs).last_hidden_state
        found[numbers] = mean_states(states, inputs["attention_mask"]).cpu().numpy()
    return found


def mean_states(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean of the states (B, S, D) over real positions, in float32 and with unit norm: (B, D)."""
    mask = attention_mask.unsqueeze(-1)
    return normalize((states.float() * mask).sum(1) / mask.sum(1), dim=1)
