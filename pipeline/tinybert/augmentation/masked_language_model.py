"""The masked-language-model head: its training where a checkpoint has none."""

import zlib
from pathlib import Path

import datasets
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import DataCollatorForLanguageModeling

from pipeline.tinybert.core.curves import Curves
from pipeline.tinybert.core.settings import MaskedLanguageModel, Numerics
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.models.families import word_logits
from pipeline.tinybert.training.loop import QuietTrainer, Result, arguments, once


class HeadTrainer(QuietTrainer):
    """Masked-language-model training that runs the head at masked positions only, on a frozen body or not."""

    def loss_and_outputs(self, model, inputs: dict[str, Tensor]) -> tuple[Tensor, None]:
        if not next(model.base_model.parameters()).requires_grad:
            model.base_model.eval()  # dropout in a body that does not learn would only be noise
        labels = inputs.pop("labels")
        inputs.pop("length", None)
        masked = labels != -100
        # A mean, and 0 with a gradient where no word of the batch is masked: the mean of none is not a number.
        loss = cross_entropy(word_logits(model, inputs, masked).float(), labels[masked], reduction="sum")
        return loss / masked.sum().clamp(min=1), None


class Masking(DataCollatorForLanguageModeling):
    """Masks words by the seed and the texts of the batch: the same ones in whatever order batches are asked for."""

    def torch_call(self, examples: list[dict]) -> dict[str, Tensor]:
        texts = np.concatenate([example["input_ids"] for example in examples], dtype=np.int32)
        self.generator = torch.Generator().manual_seed(self.seed + zlib.crc32(texts.tobytes()))
        return super().torch_call(examples)


def train_head(
    model: nn.Module, tokenizer, texts: list[str], settings: MaskedLanguageModel, numerics: Numerics
) -> Curves:
    """Train ``model``'s head in place, tied to the input embeddings; the body too, unless it is frozen.

    Returns the curve of the loss.
    """
    model.base_model.requires_grad_(not settings.freeze_body)
    longest = min(settings.max_length, tokenizer.model_max_length)
    encoded = tokenizer(texts, truncation=True, max_length=longest)
    checkpoints.log_truncated(encoded, longest)
    data = datasets.Dataset.from_dict({**encoded, "length": [len(ids) for ids in encoded["input_ids"]]})
    collator = Masking(tokenizer, mlm_probability=settings.masked_share, seed=numerics.seed)

    def trained(folder: Path) -> Result:
        trainer = HeadTrainer(
            model=model,
            args=arguments(
                folder,
                seed=numerics.seed,
                precision=numerics.precision,
                steps=settings.steps,
                batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
                max_steps=settings.steps,
                warmup_steps=settings.warmup,
            ),
            train_dataset=data,
            data_collator=collator,
        )
        trainer.go_on()
        return Result(float("nan"), 0, trainer.curves())

    result = once("masked_language_model", model, trained)
    model.requires_grad_(True)
    return result.curves
