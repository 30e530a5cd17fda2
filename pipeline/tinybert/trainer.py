"""What every run of the library's Trainer shares in this project."""

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel, ProgressCallback, Trainer, TrainingArguments

from pipeline.tinybert.attention import our_attention
from pipeline.tinybert.batches import ByLength
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


def frozen(model: nn.Module, precision: str) -> nn.Module:
    """``model`` as one that only computes: the weights of its projections are in ``precision`` once and for all, where
    autocast would convert them for each batch, to the same numbers.
    """
    model.eval().requires_grad_(False)
    with computing(precision, model.device):
        if torch.is_autocast_enabled(model.device.type):
            for module in model.modules():
                if isinstance(module, nn.Linear):
                    module.to(torch.get_autocast_dtype(model.device.type))
    return model


def has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(name) for name in BFLOAT16_INSTRUCTIONS)


def compute_the_same_each_time() -> None:
    """Same seed, same bytes. Unlike the library's ``full_determinism`` this lets a GPU run ahead of the program, and
    does not fill each new tensor with NaN first, which takes a fifth of a training step's time on a CPU.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


@dataclass
class Arguments(TrainingArguments):
    """The library's arguments, and the precision of the training: validation and prediction are in float32."""

    precision: str = "float32"


class QuietTrainer(Trainer):
    """The library's Trainer; its progress bar shows the latest numbers, which else would fill the screen."""

    def __init__(self, **rest):
        compute_the_same_each_time()
        super().__init__(**rest)
        if isinstance(self.model, PreTrainedModel):
            our_attention(self.model)
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

    def _get_train_sampler(self, train_dataset=None):
        data = self.train_dataset if train_dataset is None else train_dataset
        lengths = data.lengths if hasattr(data, "lengths") else np.asarray(data["length"])
        return ByLength(lengths, self.args.train_batch_size * self.args.gradient_accumulation_steps, self.args.seed)

    def _get_eval_sampler(self, eval_dataset):
        return SequentialSampler(eval_dataset)


class _Progress(ProgressCallback):
    def on_train_begin(self, args, state, control, **rest):
        super().on_train_begin(args, state, control, **rest)
        self.shown = ("loss", args.metric_for_best_model)
        self.numbers = {}

    def on_log(self, args, state, control, logs=None, **rest):
        if state.is_world_process_zero and self.training_bar is not None:
            self.numbers |= {name: f"{logs[name]:.4g}" for name in self.shown if name in logs}
            self.training_bar.set_postfix(self.numbers)


def arguments(scratch: str, *, numerics: Numerics, steps: int, batch_size: int, learning_rate: float, **options):
    """The Trainer's arguments that all runs of this project share.

    Batches hold texts of like lengths; the last, smaller one is used too. AdamW and clipping are the library's.
    """
    made = Arguments(
        output_dir=scratch,
        seed=numerics.seed,
        precision=numerics.precision,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=EVALUATION_BATCH,
        learning_rate=learning_rate,
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
