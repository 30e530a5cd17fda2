"""The training loop of every stage that trains, on accelerate: batches of similar lengths, forward, loss, backward,
clip, optimizer, schedule, log, evaluate, checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel, get_scheduler

from pipeline.tinybert.core import curves, launch, resume, whole
from pipeline.tinybert.core.errors import UserError
from pipeline.tinybert.core.log import log
from pipeline.tinybert.models.attention import our_attention
from pipeline.tinybert.models.batches import ByLength, Share
from pipeline.tinybert.models.dropout import our_dropout
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.precision import autocast
from pipeline.tinybert.training import cuda_graphs
from pipeline.tinybert.training.plan import Plan, Result, Validation, epochs_text, steps_of

POINTS_OF_A_CURVE = 100
SECONDS_BETWEEN_CHECKPOINTS = 60  # what a killed run loses at most
CHECKPOINTS_KEPT = 2  # if the disk damages the newest, the run resumes from the one before
STEPS_BETWEEN_LOOKS = 50  # at the losses of a GPU
LARGEST_GRADIENT_NORM = 1.0
WEIGHTS = "weights"  # the column of a batch with the weight of each part of its loss
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # for deterministic products; read when the GPU is first used

Batch = dict[str, Tensor]
Tensors = dict[str, Tensor]
Collate = Callable[[Any], Batch]  # rows of a batch → its tensors


class Objective:
    """What a run minimises: the sum of one or several ``parts``, each a mean over the batch."""

    parts: tuple[str, ...] = ("loss",)
    needs_all_weights = True  # False: some weights of the model have no part in the loss
    can_be_recorded = True  # whether steps may be CUDA graphs: no value may be read back from the GPU
    is_last_whole_epoch = True  # set by the run

    def losses(self, model: nn.Module, batch: Batch) -> tuple[Tensors, Tensors]:
        """The parts of the loss, scalars by name, and further tensors for `after_batch`."""
        raise NotImplementedError

    def counts(self, batch: Batch) -> Tensors:
        """The number of items that each part is the mean of, scalars by name. It is the weight of a batch if several
        batches or processes form a step.
        """
        raise NotImplementedError

    def after_batch(self, batch: Batch, found: Tensors) -> None:
        """Called with each batch and its further tensors."""

    def before_checkpoint(self) -> None:
        """Called before the state of the run is saved, and after the last step."""

    def files(self) -> list[Path]:
        """Files of all processes to which the objective has appended. A checkpoint is of use only with them."""
        return []


def train_or_load(
    name: str,
    objective: Objective,
    model: nn.Module,
    data: EncodedRows,
    collate: Collate,
    plan: Plan,
    validation: Validation | None = None,
) -> Result:
    """Train ``model`` in place; or load what an interrupted run of the same stage has finished under this name."""
    with resume.folder(name) as folder:
        weights, finished = folder / "trained.safetensors", folder / "result.json"
        if saved := launch.first(lambda: whole.sealed(finished)):
            load_model(model, weights)
            return Result(**saved["result"])
        result = Run(objective, model, data, collate, plan, folder, validation).to_the_end()
        launch.wait()  # until every process has written its files
        if launch.rank() == 0:
            save_model(model, str(weights))
            whole.seal(finished, [weights, *objective.files()], result=asdict(result))
        return result


@dataclass
class _Progress:
    """Where a run is. A checkpoint contains it, so a resumed run ends with the same bytes."""

    epoch: int = 0  # finished epochs
    batches: int = 0  # finished batches of the current epoch
    step: int = 0
    points: list[dict] = field(default_factory=list)  # of the curves
    sums: dict[str, float] = field(default_factory=dict)  # of the losses since the last point
    summed: int = 0  # steps in the sums
    best_score: float = -math.inf
    best_epoch: int = 0
    last_score: float = -math.inf

    def state_dict(self) -> dict:
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


class Run:
    """One training run. ``to_the_end`` trains; the other methods are its parts, in order."""

    def __init__(
        self,
        objective: Objective,
        model: nn.Module,
        data: EncodedRows,
        collate: Collate,
        plan: Plan,
        folder: Path,
        validation: Validation | None = None,
    ):
        compute_deterministically()
        wanted, plan = plan, plan.fitted(len(data))
        assert plan.steps
        self.steps, self.steps_per_epoch = plan.steps, steps_of(len(data), 1, plan.batch_size, plan.accumulation)
        self.objective, self.data, self.collate, self.plan = objective, data, collate, plan
        self.folder, self.validation = folder, validation
        if (plan.batch_size, plan.epochs) != (wanted.batch_size, wanted.epochs):
            epochs = epochs_text(self.steps / self.steps_per_epoch)
            log(
                f"few rows: {self.steps} steps in batches of {plan.batch_size}, {epochs}, in place of"
                f" {epochs_text(wanted.epochs)} in batches of {wanted.batch_size} (min_steps: {plan.min_steps})"
            )
        set_seed(plan.seed + launch.rank())  # other rows, other dropout
        unused = DistributedDataParallelKwargs(find_unused_parameters=not objective.needs_all_weights)
        self.accelerator = Accelerator(
            mixed_precision="no", cpu=launch.device().type == "cpu", kwargs_handlers=[unused]
        )
        self.device = self.accelerator.device
        if isinstance(model, PreTrainedModel):
            our_attention(model)
        our_dropout(model)
        if plan.checkpointing:
            cast(PreTrainedModel, model).activation_checkpointing_enable({"use_reentrant": False})
        self.model = model
        optimizer = torch.optim.AdamW(_groups(model, plan.weight_decay), lr=plan.learning_rate, fused=True)
        self.wrapped, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.schedule = get_scheduler(
            plan.schedule, self.optimizer.optimizer, math.ceil(plan.warmup * self.steps), self.steps
        )
        self.progress = _Progress()
        self.accelerator.register_for_checkpointing(self.schedule, self.progress)
        alone = launch.world_size() == 1 and not plan.checkpointing
        records = objective.can_be_recorded and alone and cuda_graphs.wanted(self.device)
        self.compute = cuda_graphs.Replayed(self.forward_and_backward, model) if records else self.forward_and_backward
        self.pending: list[Tensors] = []  # losses and gradient norms of steps that have not been looked at yet

    def to_the_end(self) -> Result:
        self.resume()
        self.saved_at = time.monotonic()
        live, progress = curves.Live(), self.progress
        bar = tqdm(total=self.steps, initial=progress.step, unit="step", disable=launch.rank() > 0)
        self.wrapped.train()
        with bar:
            while progress.step < self.steps and not self.is_out_of_patience():
                self.objective.is_last_whole_epoch = progress.epoch == self.steps // self.steps_per_epoch - 1
                for batches in self.optimizer_steps():
                    self.one_step(batches)
                    bar.update()
                    if progress.step % max(1, self.steps // POINTS_OF_A_CURVE) == 0:
                        self.add_point()
                        self.show(bar, live)
                    if progress.step == self.steps:
                        break
                    self.save_checkpoint_if_due()
                self.end_epoch()
                self.show(bar, live)
                self.save_checkpoint_if_due()
        self.look_at_losses()
        self.objective.before_checkpoint()
        return self.finished()

    # Batches

    def optimizer_steps(self) -> Iterator[list[Batch]]:
        """The rest of the current epoch's batches, those of one optimizer step together."""
        plan, rank, processes = self.plan, launch.rank(), launch.world_size()
        order = ByLength(self.data.lengths, plan.batch_size * plan.accumulation, plan.seed, self.progress.epoch)
        share = Share(order, plan.batch_size, rank, processes, skip=self.progress.batches)
        on_gpu = self.device.type == "cuda"
        # DataLoader draws a seed from torch's generator, which dropout also uses. In a resumed epoch this draw was made
        # before the checkpoint, so the loader gets a generator of its own.
        generator = torch.Generator() if self.progress.batches else None
        loader = DataLoader(
            self.data, batch_sampler=share, collate_fn=self.collate, pin_memory=on_gpu, generator=generator
        )
        loader = prepare_data_loader(
            loader, self.device, num_processes=1, process_index=0, put_on_device=True, non_blocking=on_gpu
        )
        batches = []
        for batch in loader:
            batches.append(batch)
            self.progress.batches += 1
            is_last = self.progress.batches == len(share.batches)
            if len(batches) == plan.accumulation or is_last:
                yield self.weighted(batches, is_last)
                batches = []

    def weighted(self, batches: list[Batch], is_last: bool) -> list[Batch]:
        """Give each batch the weight of each part of its loss in the step's mean: its count over the average count.

        With one batch in one process that is 1 and left out.
        """
        if len(batches) * launch.world_size() > 1:
            found = [self.objective.counts(batch) for batch in batches]
            counts = torch.stack([torch.stack([part[name] for name in self.objective.parts]) for part in found]).float()
            rows_of_last = len(self.data) % self.plan.batch_size
            if is_last and 0 < rows_of_last < launch.world_size():
                counts[-1] /= launch.world_size()  # every process has the whole of it
            average = launch.mean(counts.mean(dim=0)).clamp(min=torch.finfo().tiny)
            for batch, weights in zip(batches, counts / average / len(batches), strict=True):
                batch[WEIGHTS] = weights
        return batches

    # One step

    def one_step(self, batches: list[Batch]) -> None:
        """Forward, backward, clip, optimizer, schedule."""
        noted: Tensors = {}
        for number, batch in enumerate(batches):
            is_last = number == len(batches) - 1
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.wrapped):
                found = self.compute(batch)
            losses = {name: found.pop(name) for name in list(found) if name.startswith(LOSS)}
            noted = {name: noted.get(name, 0) + value for name, value in losses.items()}
            self.objective.after_batch(batch, found)
        noted[NORM] = self.accelerator.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT_NORM)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.pending.append(noted)
        if self.device.type == "cpu" or len(self.pending) == STEPS_BETWEEN_LOOKS:
            self.look_at_losses()

    def forward_and_backward(self, batch: Batch) -> Tensors:
        """Add a batch's gradients to the model's. Returns the parts of its loss, and what `Objective.losses` adds."""
        batch = dict(batch)
        weights = batch.pop(WEIGHTS, None)
        with autocast(self.plan.precision, self.device):
            parts, found = self.objective.losses(self.wrapped, batch)
        if weights is not None:
            parts = {name: parts[name] * weight for name, weight in zip(self.objective.parts, weights, strict=True)}
        self.accelerator.backward(sum(parts.values()))
        return {**{LOSS + name: part.detach() for name, part in parts.items()}, **found}

    # Losses and curves

    def look_at_losses(self) -> None:
        """Add the losses of the last steps to the sums. Raise UserError at the first one that is not finite. Reading a
        value waits for the GPU, so there the losses of many steps are read together.
        """
        if not self.pending:
            return
        table = torch.stack([torch.stack(list(noted.values())) for noted in self.pending]).tolist()
        for number, row in enumerate(table, self.progress.step - len(table) + 1):
            values = dict(zip(self.pending[0], row, strict=True))
            if not all(map(math.isfinite, row)):
                raise UserError(self.not_finite(values, number))
            for name, value in values.items():
                if name != NORM:
                    name = name.removeprefix(LOSS)
                    self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value
        self.progress.summed += len(self.pending)
        self.pending = []

    def not_finite(self, values: dict[str, float], step: int) -> str:
        total = sum(value for name, value in values.items() if name != NORM)
        what = f"the loss is {total}" if not math.isfinite(total) else f"the gradients' norm is {values[NORM]}"
        return (
            f"{self.plan.stage}: {what} at step {step} of {self.steps} (learning rate {self.plan.learning_rate:g}):"
            " set a smaller learning rate for this stage, or `precision: float32`"
        )

    def add_point(self) -> None:
        """Add a point to the curves: the mean losses since the last point, over all processes."""
        self.look_at_losses()
        sums = self.progress.sums
        means = launch.mean(torch.tensor(list(sums.values()), dtype=torch.float64)) / self.progress.summed
        parts = dict(zip(sums, means.tolist(), strict=True))
        named = parts if list(parts) == ["loss"] else {"loss": sum(parts.values()), **parts}
        self.progress.points.append({"step": self.progress.step, **named})
        self.progress.sums, self.progress.summed = {}, 0

    def show(self, bar: tqdm, live: curves.Live) -> None:
        latest = {name: value for point in self.progress.points for name, value in point.items()}
        shown = {name: f"{latest[name]:.4g}" for name in ("loss", self.curve_of_the_metric()) if name in latest}
        bar.set_postfix(shown)
        live.show(self.progress.points)

    # Epochs

    def end_epoch(self) -> None:
        progress = self.progress
        progress.epoch, progress.batches = progress.epoch + 1, 0
        if self.validation is None:
            return
        self.look_at_losses()
        score = self.validation.score()
        if not math.isfinite(score):
            raise UserError(
                f"{self.plan.stage}: {self.validation.metric} on validation is {score} after epoch {progress.epoch}"
                f" (learning rate {self.plan.learning_rate:g}): set a smaller learning rate"
            )
        if self.steps > self.steps_per_epoch:  # the score of one epoch is no curve
            progress.points.append({"step": progress.step, self.curve_of_the_metric(): score})
        progress.last_score = score
        if score > progress.best_score:
            progress.best_score, progress.best_epoch = score, progress.epoch
            if launch.rank() == 0 and self.steps > self.steps_per_epoch:
                with whole.atomic(self.best()) as partial:
                    save_model(self.model, str(partial))
                self.delete_needless_weights()

    def best(self) -> Path:
        """The weights of the best epoch."""
        return self.folder / f"best-{self.progress.best_epoch}.safetensors"

    def delete_needless_weights(self) -> None:
        """Delete the weights of all epochs except the best one and those that a kept checkpoint needs."""
        sealed = (whole.read(path / SEAL) or {"files": []} for path in self.checkpoints())
        needed = {self.best().name, *(Path(name).name for content in sealed for name in content["files"])}
        for path in self.folder.glob("best-*"):
            if path.name not in needed:
                path.unlink()

    def curve_of_the_metric(self) -> str:
        return f"validation_{self.validation.metric}" if self.validation else ""

    def is_out_of_patience(self) -> bool:
        patience = self.plan.patience
        return patience is not None and self.progress.epoch - self.progress.best_epoch >= patience

    def finished(self) -> Result:
        """Leave the model with the weights of the best epoch on validation: of the last one, unless an earlier one is
        better by more than chance, or early stopping ended the run.
        """
        progress, validation = self.progress, self.validation
        launch.wait()
        score, epoch = progress.last_score, progress.epoch
        was_stopped = progress.step < self.steps
        if validation and (was_stopped or not validation.is_chance(progress.best_score, score)):
            score, epoch = progress.best_score, progress.best_epoch
        if epoch < progress.epoch:
            load_model(self.model, self.best())
        if self.plan.checkpointing:
            cast(PreTrainedModel, self.model).activation_checkpointing_disable()
        del self.compute  # frees CUDA graphs and breaks a reference cycle, which would keep the optimizer's state
        self.accelerator.free_memory()
        names = dict.fromkeys(name for point in progress.points for name in point if name != "step")
        found = {name: [(point["step"], point[name]) for point in progress.points if name in point] for name in names}
        return Result(score if validation else math.nan, epoch, len(self.data), progress.step, found)

    # Checkpoints

    def save_checkpoint_if_due(self) -> None:
        if launch.broadcast_bool(time.monotonic() - self.saved_at > SECONDS_BETWEEN_CHECKPOINTS):
            self.save_checkpoint()
            self.saved_at = time.monotonic()

    def save_checkpoint(self) -> None:
        self.look_at_losses()
        self.objective.before_checkpoint()
        partial = self.folder / "checkpoint.partial"
        launch.wait()
        self.accelerator.save_state(str(partial))
        launch.wait()  # until every process has written its files
        if launch.rank() == 0:
            best = [self.best()] if self.best().exists() else []
            whole.seal(partial / SEAL, [*partial.iterdir(), *best, *self.objective.files()])
            partial.rename(self.folder / f"checkpoint-{self.progress.step}-{self.progress.epoch}")
            whole.sync(self.folder)
            for path in self.checkpoints()[:-CHECKPOINTS_KEPT]:
                shutil.rmtree(path)
            self.delete_needless_weights()
        launch.wait()

    def resume(self) -> None:
        """Load the newest undamaged checkpoint of an interrupted run."""
        launch.wait()  # until every process has opened the files to which its objective appends
        if found := launch.first(self.last_whole_checkpoint):
            self.accelerator.load_state(str(found))
            log(f"resumes after step {self.progress.step}")

    def last_whole_checkpoint(self) -> Path | None:
        """The newest undamaged checkpoint, None if there is none. Deletes incomplete and damaged ones."""
        for path in self.folder.glob("*.partial"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        found = self.checkpoints()
        while found and whole.sealed(found[-1] / SEAL) is None:
            log(f"{found[-1]} is incomplete or damaged: it is deleted")
            shutil.rmtree(found.pop())
        return found[-1] if found else None

    def checkpoints(self) -> list[Path]:
        """The oldest first."""
        return sorted(
            self.folder.glob("checkpoint-*"), key=lambda path: [int(part) for part in path.name.split("-")[1:]]
        )


SEAL = "sealed.json"  # of a checkpoint
LOSS, NORM = "loss: ", "norm"  # of the names of what a step notes


def _groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay is for matrices, not for biases and LayerNorms."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return [
        {"params": [weight for weight in weights if weight.dim() > 1], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.dim() <= 1], "weight_decay": 0.0},
    ]


def compute_deterministically() -> None:
    """Same seed, same bytes. Unlike the library's full determinism, this lets the program run ahead of a GPU, and does
    not fill each new tensor with NaN, which takes a fifth of a training step on a CPU.
    """
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
