"""What every run of the library's Trainer shares in this project."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate.data_loader import prepare_data_loader
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from pipeline.tinybert.core import curves, launch, resume
from pipeline.tinybert.core.log import log
from pipeline.tinybert.models.attention import our_attention
from pipeline.tinybert.models.batches import ByLength, Share
from pipeline.tinybert.models.precision import autocast
from pipeline.tinybert.training import cuda_graphs

POINTS_OF_A_CURVE = 100
EVALUATION_BATCH = 64
SECONDS_LOST = 60  # at most, and what a checkpoint takes, when a run is killed
SHARE = "share"
WHOLE = "unlogged.json"  # the last file of a checkpoint
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # for `compute_the_same_each_time`, before a GPU is asked anything


def compute_the_same_each_time() -> None:
    """Same seed, same bytes. Unlike the library's ``full_determinism`` this lets a GPU run ahead of the program, and
    does not fill each new tensor with NaN first, which takes a fifth of a training step's time on a CPU.
    """
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


@dataclass
class Arguments(TrainingArguments):
    """The library's arguments, and the precision of the training: validation and prediction are in float32."""

    precision: str = "float32"


class QuietTrainer(Trainer):
    """The library's Trainer; its progress bar shows the latest numbers, which else would fill the screen.

    Where ``can_be_replayed``, its steps ask a GPU for no number, and have the shapes of their batches.
    """

    can_be_replayed = False

    def __init__(self, **rest):
        compute_the_same_each_time()
        super().__init__(**rest)
        self.noted: dict[str, Tensor] = {}  # what a step gives beside its loss
        alone = launch.world_size() == 1 and not self.args.activation_checkpointing
        can_be = self.can_be_replayed and alone and cuda_graphs.wanted(self.args.device)
        self.replayed = cuda_graphs.Replayed(self.loss_and_noted, self.model) if can_be else None
        if launch.rank() > 0:
            torch.manual_seed(self.args.seed + launch.rank())  # another dropout for other rows
        if isinstance(self.model, PreTrainedModel):
            our_attention(self.model)
        self.shown = {"loss": "loss"}  # key of the log → name of the curve
        self.add_callback(_Keep(self))
        self.add_callback(curves.Live(self.shown))
        self.remove_callback(ProgressCallback)
        self.add_callback(_Progress)
        transformers.logging.disable_progress_bar()
        # Else the library takes a model's loss for one over all accumulated batches, and does not divide: these models
        # accept the keywords, and have the mean of a batch all the same.
        self.model_accepts_loss_kwargs = False

    def go_on(self) -> None:
        """Train, from where a run that was killed has come, if there was one: to the same bytes."""
        kept = [path.parent for path in Path(self.args.output_dir).glob(f"checkpoint-*/{WHOLE}")]
        latest = max(kept, key=lambda path: int(path.name.split("-")[1]), default=None)
        if latest is None:
            self.train()
        else:
            self.go_on_after(latest)
        self.replayed = None  # its memory is for what comes next

    def go_on_after(self, latest: Path) -> None:
        log(f"goes on after step {latest.name.split('-')[1]}")
        state = TrainerState.load_from_json(str(latest / TRAINER_STATE_NAME))
        if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:  # the library would go on
            self.state = state
            self._load_best_model()
        else:
            self.train(resume_from_checkpoint=str(latest))

    def curves(self) -> curves.Curves:
        return curves.of_log(self.state.log_history, self.shown)

    def get_train_dataloader(self) -> DataLoader:
        data = self.train_dataset
        lengths = data.lengths if hasattr(data, "lengths") else np.asarray(data["length"])
        order = ByLength(lengths, self.args.train_batch_size * self.args.gradient_accumulation_steps, self.args.seed)
        share = Share(order, self.args.train_batch_size, launch.rank(), launch.world_size())
        loader = DataLoader(
            data, batch_sampler=share, collate_fn=self.data_collator, pin_memory=self.args.dataloader_pin_memory
        )
        # As one process would have it prepared: the shares are ours.
        alone = {"num_processes": 1, "process_index": 0}
        at_once = {"put_on_device": True, "non_blocking": self.args.dataloader_pin_memory}
        return prepare_data_loader(loader, self.args.device, **alone, **at_once)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The batches of one step of the optimiser, each with its share in the step's means: what it counts for over
        what the batches of all processes count for on average. The library gives each batch the same.
        """
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if len(batches) * launch.world_size() > 1:
            counted = torch.stack([self.counted(batch) for batch in batches]).float()
            final = len(self.train_dataset) % self.args.train_batch_size
            if self.accelerator.gradient_state.end_of_dataloader and 0 < final < launch.world_size():
                counted[-1] /= launch.world_size()  # each has the whole of it
            average = launch.mean(counted.mean(dim=0))
            for batch, share in zip(batches, counted / average.clamp(min=torch.finfo().tiny), strict=True):
                batch[SHARE] = share
        return batches, items

    def counted(self, batch: dict[str, Tensor]) -> Tensor:
        """How many labels, or rows, a batch's loss is the mean of: (1,); or of each part of the loss, (parts,)."""
        labels = batch.get("labels")
        of_words = labels is not None and labels.dim() == 2 and not labels.is_floating_point()
        return (labels != -100).sum().view(1) if of_words else self.rows_of(batch)

    def rows_of(self, batch: dict[str, Tensor]) -> Tensor:
        return torch.tensor([len(batch["input_ids"])], device=self.args.device)

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        if self.replayed is None:
            return super().training_step(model, inputs, num_items_in_batch)
        self.noted = self.replayed(inputs, self.current_gradient_accumulation_steps)
        return self.noted.pop("loss")

    def loss_and_noted(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those of a step, which adds to the gradients."""
        return {"loss": super().training_step(self.model, dict(inputs)), **self.noted}

    def floating_point_ops(self, inputs) -> int:
        return 0  # the library would go through all weights for it in each step

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        share = inputs.pop(SHARE, None)
        loss, outputs = self.loss_and_outputs(model, inputs)
        if share is not None:
            loss = loss * share.squeeze()
        return (loss, outputs) if return_outputs else loss

    def loss_and_outputs(self, model, inputs: dict[str, Tensor]) -> tuple[Tensor, Any]:
        """The loss of a batch, a mean."""
        outputs = model(**inputs)
        return outputs["loss"], outputs

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True):
        # Accelerate would set the precision of the trained model's forward alone, and in evaluation too; our losses
        # also run a teacher, or a head.
        precision = self.args.precision if self.model.training else "float32"
        return autocast(precision, self.args.device)

    def unlogged(self) -> dict:
        """The losses since the last logged step."""
        loss = launch.mean(self._tr_loss.clone()).item()
        return {"loss": loss, "total": self._total_loss_scalar, "step": self._globalstep_last_logged}

    def set_unlogged(self, kept: dict) -> None:
        self._tr_loss = torch.tensor(kept["loss"], device=self.args.device)
        self._total_loss_scalar, self._globalstep_last_logged = kept["total"], kept["step"]


class _Keep(TrainerCallback):
    """Keeps a checkpoint every minute. Beside what the library keeps in it: the losses since the last logged step."""

    def __init__(self, trainer: QuietTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **rest):
        self.kept = time.monotonic()
        kept = Path(args.output_dir, f"checkpoint-{state.global_step}", WHOLE)
        if kept.exists():
            self.trainer.set_unlogged(json.loads(kept.read_text(encoding="utf-8")))

    def on_step_end(self, args, state, control, **rest):
        # Not at the end of an epoch: to go on from there would leave its evaluation out.
        if state.epoch % 1 and state.global_step < state.max_steps:
            control.should_save |= launch.broadcast_bool(time.monotonic() - self.kept > SECONDS_LOST)

    def on_save(self, args, state, control, **rest):
        self.kept = time.monotonic()
        unlogged = self.trainer.unlogged()  # from all processes, which then have written what is theirs
        if state.is_world_process_zero:
            whole = Path(args.output_dir, f"checkpoint-{state.global_step}", WHOLE)
            whole.write_text(json.dumps(unlogged), encoding="utf-8")


class _Progress(ProgressCallback):
    def on_train_begin(self, args, state, control, **rest):
        super().on_train_begin(args, state, control, **rest)
        self.shown = ("loss", args.metric_for_best_model)
        self.numbers = {}

    def on_log(self, args, state, control, logs=None, **rest):
        if state.is_world_process_zero and self.training_bar is not None:
            self.numbers |= {name: f"{logs[name]:.4g}" for name in self.shown if name in logs}
            self.training_bar.set_postfix(self.numbers)


def arguments(
    scratch: Path, *, seed: int, precision: str, steps: int, batch_size: int, learning_rate: float, **options
) -> Arguments:
    """The Trainer's arguments that all runs of this project share.

    Batches hold texts of like lengths; the last, smaller one is used too. AdamW and clipping are the library's.
    A batch is that of all processes together.
    """
    made = Arguments(
        output_dir=str(scratch),
        seed=seed,
        precision=precision,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=EVALUATION_BATCH,
        learning_rate=learning_rate,
        logging_steps=max(1, steps // POINTS_OF_A_CURVE),
        report_to="none",
        log_level_replica="error",
        logging_nan_inf_filter=False,  # which looks at each loss: a GPU would have to wait
        disable_tqdm=False,
        remove_unused_columns=False,
        use_cache=True,  # else the Trainer writes into the model's configuration that there is none
        dataloader_pin_memory=torch.cuda.is_available(),
        **{"save_strategy": "no", "save_total_limit": 2, "ddp_find_unused_parameters": False, **options},
    )
    made.mixed_precision = "no"  # whatever accelerate's environment says: the precision is ours
    made._n_gpu = min(made.n_gpu, 1)  # one a process: on several the library would split batches among threads
    return made


@dataclass(frozen=True)
class Result:
    """What a training run leaves besides the model: its best epoch, the score there, and its curves."""

    score: float
    epoch: int
    curves: curves.Curves


def once(name: str, model: nn.Module, train: Callable[[Path], Result]) -> Result:
    """``train`` the model in the stage's scratch folder of this name; or take what a run that was killed later had made
    of it.
    """
    with resume.folder(name) as folder:
        weights, finished = folder / "trained.safetensors", folder / "result.json"
        if kept := resume.read(finished):
            load_model(model, weights)
            return Result(**kept)
        result = train(folder)
        launch.wait()  # until all that they keep is on disk
        if launch.rank() == 0:
            save_model(model, str(weights))
            resume.write(finished, asdict(result))
        return result


def steps_of(rows: int, epochs: int, batch_size: int, accumulation: int = 1) -> int:
    return epochs * math.ceil(math.ceil(rows / batch_size) / accumulation)
