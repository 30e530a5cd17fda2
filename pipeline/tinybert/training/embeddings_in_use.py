"""Training without the word-piece embeddings that no text of the training data has.

Their gradient is always 0, and yet clipping and AdamW would read and write each of them, and its two moments, in every
step. In a small student most weights are embeddings: with a few hundred rows, this would take half of a step on a CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers import PreTrainedModel

from pipeline.tinybert.models.encoded_rows import EncodedRows


class EmbeddingsInUse(nn.Module):
    """An embedding that trains only the rows ``pieces`` (P,) of ``full``. In evaluation mode it uses all rows, updated
    with the trained ones, because validation texts have other words.
    """

    places: Tensor  # of each word piece in `weight`

    def __init__(self, full: nn.Embedding, pieces: np.ndarray):
        super().__init__()
        self.pieces = torch.from_numpy(pieces)
        self.hidden = (full,)  # a module in a tuple has no part in parameters, checkpoints and clipping
        self.weight = nn.Parameter(full.weight.detach()[self.pieces])
        places = torch.full((full.num_embeddings,), -1, dtype=torch.int32)  # -1: an error in `embedding`
        places[self.pieces] = torch.arange(len(pieces), dtype=torch.int32)
        self.register_buffer("places", places, persistent=False)
        self.padding = None if full.padding_idx is None else int(places[full.padding_idx])

    def forward(self, input_ids: Tensor) -> Tensor:
        if self.training:
            return embedding(self.places[input_ids], self.weight, self.padding)
        return self.hidden[0](input_ids)

    def train(self, mode: bool = True) -> EmbeddingsInUse:
        if not mode:
            self.write_back()
        return super().train(mode)

    @torch.no_grad()
    def write_back(self) -> nn.Embedding:
        """``full`` with the present values."""
        full = self.hidden[0].to(self.weight.device)
        full.weight[self.pieces.to(self.weight.device)] = self.weight
        return full


@contextlib.contextmanager
def embeddings_in_use(model: PreTrainedModel, data: EncodedRows, padding: int) -> Iterator[None]:
    """Within this context, only the embeddings of word pieces in ``data``, and of the id ``padding``, are trained."""
    full: Any = model.get_input_embeddings()
    ids = {padding} if full.padding_idx is None else {padding, full.padding_idx}
    in_use: Any = EmbeddingsInUse(full, np.union1d(data.pieces_in_use(), sorted(ids)))
    model.set_input_embeddings(in_use)
    try:
        yield
    finally:
        model.set_input_embeddings(in_use.write_back())
