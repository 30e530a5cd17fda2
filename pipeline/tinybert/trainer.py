"""What every run of the library's Trainer shares in this project."""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import DataCollatorWithPadding, ProgressCallback, Trainer, TrainingArguments

from pipeline.tinybert.settings import Numerics

POINTS_OF_A_CURVE = 100
EVALUATION_BATCH = 64
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # the last: of ARM


def computing(precision: str, device: torch.device) -> torch.autocast:
    """A context in which models compute in ``precision``; weights, losses and optimiser stay in float32.

    ``auto`` is bfloat16 where the processor has instructions for it: elsewhere that would be slower than float32.
    """
    bfloat16 = precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)


def has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(name) for name in BFLOAT16_INSTRUCTIONS)


@dataclass
class Arguments(TrainingArguments):
    """The library's arguments, and the precision of the training: validation and prediction are in float32."""

    precision: str = "float32"


class QuietTrainer(Trainer):
    """The library's Trainer; its progress bar shows the latest numbers, which else would fill the screen."""

    def __init__(self, **rest):
        super().__init__(**rest)
        self.remove_callback(ProgressCallback)
        self.add_callback(_Progress)
        transformers.logging.disable_progress_bar()
        # Else the library takes a model's loss for one over all accumulated batches, and does not divide: these models
        # accept the keywords, and have the mean of a batch all the same.
        self.model_accepts_loss_kwargs = False

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True):
        # Accelerate would set the precision of the trained model's forward alone, and in evaluation too; our losses
        # also run a teacher, or a head.
        precision = self.args.precision if self.model.training else "float32"
        return computing(precision, self.args.device)

    def _get_eval_sampler(self, eval_dataset):
        # The library groups evaluation rows by length too, and gives their logits back in that order, not in theirs.
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None


class _Progress(ProgressCallback):
    def on_train_begin(self, args, state, control, **rest):
        super().on_train_begin(args, state, control, **rest)
        self.shown = ("loss", args.metric_for_best_model)
        self.numbers = {}

    def on_log(self, args, state, control, logs=None, **rest):
        if state.is_world_process_zero and self.training_bar is not None:
            self.numbers |= {name: f"{logs[name]:.4g}" for name in self.shown if name in logs}
            self.training_bar.set_postfix(self.numbers)


INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PADDED = {"labels": -100, "kept": False}  # lists that are as long as their sequence, or the same for all
TARGETS = ("labels", "start_positions", "end_positions")


class Collator:
    """Pads the sequences of a batch to its longest; gives the columns that ``also`` names beside the model's own."""

    def __init__(self, tokenizer, *also: str):
        self.pad, self.also = DataCollatorWithPadding(tokenizer), also

    def __call__(self, features: list[dict]) -> dict[str, Tensor]:
        names = features[0].keys()
        batch = dict(self.pad([{name: row[name] for name in INPUTS if name in names} for row in features]))
        for name in (name for name in (*TARGETS, *self.also) if name in names):
            values = [row[name] for row in features]
            batch[name] = _padded(values, PADDED[name]) if isinstance(values[0], list) else torch.tensor(values)
        return batch


def _padded(values: list[list], filler: float) -> Tensor:
    longest = max(len(row) for row in values)
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in values])


def arguments(scratch: str, *, numerics: Numerics, steps: int, batch_size: int, learning_rate: float, **options):
    """The Trainer's arguments that all runs of this project share.

    Batches hold texts of like lengths; the last, smaller one is used too. AdamW and clipping are the library's.
    """
    made = Arguments(
        output_dir=scratch,
        seed=numerics.seed,
        precision=numerics.precision,
        full_determinism=True,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=EVALUATION_BATCH,
        learning_rate=learning_rate,
        train_sampling_strategy="group_by_length",
        logging_steps=max(1, steps // POINTS_OF_A_CURVE),
        report_to="none",
        disable_tqdm=False,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        **{"save_strategy": "no", **options},
    )
    made.mixed_precision = "no"  # whatever accelerate's environment says: the precision is ours
    return made


def steps_of(rows: int, epochs: int, batch_size: int, accumulation: int = 1) -> int:
    return epochs * math.ceil(math.ceil(rows / batch_size) / accumulation)


def scratch_folder() -> tempfile.TemporaryDirectory:
    """A folder for the Trainer's checkpoints and for encoded rows, on the disk of the models, gone at the end."""
    Path("models").mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(dir="models", prefix=".scratch-")


def curve_of(trainer: Trainer, names: tuple[str, ...] = ("loss",)) -> list[tuple]:
    history = [entry for entry in trainer.state.log_history if names[0] in entry]
    return [(entry["step"], round(entry["epoch"], 3), *(float(entry[name]) for name in names)) for entry in history]
