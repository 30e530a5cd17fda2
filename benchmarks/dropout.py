"""A teacher's training step with torch's dropout, with ours and with none: ``python benchmarks/dropout.py``.

It needs models/pretrained/encoder, from `dvc repro` or `dvc pull`. Texts have random word pieces, 32 in a batch. The
models run in turn; the table has medians in milliseconds.
"""

import copy
import statistics
import sys
import time
from pathlib import Path

import torch
from comparison import machine
from torch import nn
from transformers import AutoModelForSequenceClassification

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.tinybert.models import attention, checkpoints
from pipeline.tinybert.models.dropout import drop_out, our_dropout
from pipeline.tinybert.models.precision import autocast

ENCODER = Path("models/pretrained/encoder")
BATCH, ROUNDS = 32, 10
LENGTHS = (27, 64, 128)
IN_ATTENTION = {"torch's": lambda values, probability: nn.functional.dropout(values, probability), "ours": drop_out}


def models() -> dict[str, nn.Module]:
    model = attention.our_attention(AutoModelForSequenceClassification.from_pretrained(ENCODER, num_labels=2)).train()
    made = {name: copy.deepcopy(model) for name in ("torch's", "ours", "none")}
    our_dropout(made["ours"])
    checkpoints.set_dropout(made["none"], 0.0)
    return made


def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: dict[str, torch.Tensor]) -> None:
    with autocast("auto", torch.device("cpu")):
        loss = model(**inputs).loss
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    made = models()
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True) for name, model in made.items()}
    print(f"{machine()}\n\n| word pieces | torch's | ours | none | less time |\n|---|---|---|---|---|")
    for length in LENGTHS:
        ids = torch.randint(1000, (BATCH, length), generator=torch.Generator().manual_seed(0))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(BATCH) % 2}
        seconds: dict[str, list[float]] = {name: [] for name in made}
        for number in range(1 + ROUNDS):  # the first one warms up
            for name, model in made.items():
                attention.drop_out = IN_ATTENTION.get(name, drop_out)
                start = time.perf_counter()
                step(model, optimizers[name], inputs)
                if number:
                    seconds[name].append(time.perf_counter() - start)
        torchs, ours, none = (1000 * statistics.median(times) for times in seconds.values())
        print(f"| {length} | {torchs:.0f} | {ours:.0f} | {none:.0f} | {1 - ours / torchs:.0%} |", flush=True)


if __name__ == "__main__":
    main()
