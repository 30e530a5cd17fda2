"""Training of the masked-language-model head, for a checkpoint that has none."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import DataCollatorForLanguageModeling, PreTrainedModel

from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.batches import Batch as Rows
from pipeline.tinybert.models.batches import Collator, Pieces
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.families import word_logits
from pipeline.tinybert.training.loop import Batch, Objective, Tensors, train_or_load
from pipeline.tinybert.training.plan import Plan, Result

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import MaskedLanguageModel, Numerics

IGNORED = -100


class MaskedWordObjective(Objective):
    """Cross-entropy at the masked positions. The head runs at these positions only."""

    can_be_recorded = False  # the number of masked positions is read back from the GPU
    needs_all_weights = False

    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensors, Tensors]:
        body = cast(PreTrainedModel, model).base_model
        if not next(body.parameters()).requires_grad:
            body.eval()  # in a frozen body, dropout would only be noise
        labels = batch.pop("labels")
        masked = labels != IGNORED
        logits = word_logits(cast(PreTrainedModel, model), batch, masked).float()
        # 0, with a gradient, if the batch has no masked word: the mean of no values would be NaN.
        return {"loss": cross_entropy(logits, labels[masked], reduction="sum") / masked.sum().clamp(min=1)}, {}

    def counts(self, batch: Batch) -> Tensors:
        return {"loss": (batch["labels"] != IGNORED).sum()}


class MaskingCollator:
    """Masks words of a batch. The draw depends on the seed and the batch's texts, not on the batches before."""

    def __init__(self, tokenizer, masked_share: float, seed: int):
        self.pad, self.seed = Collator(tokenizer, round_lengths=False), seed
        self.mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=masked_share, seed=seed)

    def __call__(self, batch: Rows) -> dict[str, Tensor]:
        ids = batch["input_ids"]
        assert isinstance(ids, Pieces)
        texts = ids.values.astype(np.int32)
        self.mask.generator = torch.Generator().manual_seed(self.seed + zlib.crc32(texts.tobytes()))
        tensors = self.pad(batch)
        tensors["input_ids"], tensors["labels"] = self.mask.torch_mask_tokens(tensors["input_ids"])
        return tensors


def train_head(
    model: PreTrainedModel, tokenizer, texts: list[str], settings: MaskedLanguageModel, numerics: Numerics
) -> Result:
    """Train ``model``'s head in place, tied to the input embeddings; the body too, unless it is frozen."""
    model.base_model.requires_grad_(not settings.freeze_body)
    longest = min(settings.max_length, tokenizer.model_max_length)
    encoded = tokenizer(texts, truncation=True, max_length=longest)
    checkpoints.log_truncated(encoded, longest)
    data = EncodedRows.in_memory(encoded)
    plan = Plan.of("encoder.masked_language_model", settings, numerics, epochs=1)
    collate = MaskingCollator(tokenizer, settings.masked_share, numerics.seed)
    result = train_or_load("masked_language_model", MaskedWordObjective(), model, data, collate, plan)
    model.requires_grad_(True)
    return result
