"""Input and output of a training run: `Plan`, `Validation`, `Result`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from pipeline.tinybert.core import curves, launch

if TYPE_CHECKING:
    from pipeline.tinybert.core.schema import Group
    from pipeline.tinybert.core.settings import FinetuneTeacher, Numerics

SMALLEST_BATCH = 8  # to which few rows reduce a batch
WARMUP_BEFORE_LABELS = 0.1  # share of the steps


@dataclass(frozen=True)
class Plan:
    """The settings of one run. A batch is that of all processes together."""

    stage: str  # for messages
    seed: int
    precision: str
    batch_size: int
    learning_rate: float
    epochs: int
    min_steps: int | None = None  # smaller batches, then more epochs, if these have fewer steps
    steps: int | None = None  # in place of all steps of the epochs: the last one may end early
    accumulation: int = 1  # batches in an optimizer step
    checkpointing: bool = False  # recompute activations: less memory, more time
    schedule: str = "linear"  # or constant
    warmup: float = 0.0  # share of the steps
    weight_decay: float = 0.0
    patience: int | None = None  # epochs without a better score before the run stops

    @classmethod
    def of(cls, stage: str, settings: Group, numerics: Numerics, **more: Any) -> Plan:
        """The plan with the ``settings`` that have the name of a field, and with ``more`` fields."""
        known = {one.name for one in fields(cls)}
        named = {name: value for name, value in settings if name in known}
        return cls(**{"stage": stage, **numerics.model_dump(), **named, **more})

    @classmethod
    def before_labels(cls, steps: str, settings: FinetuneTeacher, numerics: Numerics, batch_size: int) -> Plan:
        """The plan of a training before the labels. ``steps``: the name of the setting with the number of steps."""
        return cls(
            stage=f"finetune_teacher.{steps}",
            **numerics.model_dump(),
            batch_size=batch_size,
            learning_rate=settings.learning_rates[0],
            epochs=1,
            steps=getattr(settings, steps),
            checkpointing=settings.checkpointing,
            warmup=WARMUP_BEFORE_LABELS,
            weight_decay=settings.weight_decay,
        )

    def fitted(self, rows: int) -> Plan:
        """The plan for this number of rows, with at least ``min_steps``."""
        fit = fitted(rows, self.epochs, self.batch_size, self.accumulation, self.min_steps)
        return replace(self, batch_size=fit.batch_size, epochs=fit.epochs, steps=self.steps or fit.steps)


@dataclass(frozen=True)
class Validation:
    """Scores the model after each epoch on some ``rows``."""

    metric: str
    score: Callable[[], float]
    rows: int

    def is_chance(self, best: float, last: float) -> bool:
        """Whether the best epoch is not better than the last one by more than a standard error (that of a share).

        On few rows an early epoch is often the best by chance; the last one has seen its learning rate fall to 0.
        """
        share = min(max((best + last) / 2, 0.0), 1.0)
        return best - last <= math.sqrt(share * (1 - share) / self.rows)


@dataclass(frozen=True)
class Result:
    """What a training run leaves besides the model: the epoch that is kept and its score, on how many rows (sequences)
    the run trained and for how many steps, and its curves. By default: that of no training.
    """

    score: float = math.nan
    epoch: int = 0
    rows: int = 0
    steps: int = 0
    curves: curves.Curves = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """How long a run is on a number of rows."""

    batch_size: int
    steps: int
    steps_per_epoch: int

    @property
    def epochs(self) -> int:
        """Those that begin: the last one may end early."""
        return math.ceil(self.steps / self.steps_per_epoch)


def fitted(rows: int, epochs: int, batch_size: int, accumulation: int = 1, min_steps: int | None = None) -> Fit:
    """If the rows are too few for ``min_steps``, batches become smaller, down to 8 rows. If that does not suffice, the
    run takes more epochs and ends after ``min_steps``, in the middle of an epoch: whole epochs would make the time of a
    few hundred rows up to twice as long.
    """
    wanted, smallest = min_steps or 0, max(SMALLEST_BATCH, launch.world_size())
    while batch_size > smallest and steps_of(rows, epochs, batch_size, accumulation) < wanted:
        batch_size -= 1
    steps_per_epoch = steps_of(rows, 1, batch_size, accumulation)
    return Fit(batch_size, max(epochs * steps_per_epoch, wanted), steps_per_epoch)


def steps_of(rows: int, epochs: int, batch_size: int, accumulation: int = 1) -> int:
    return epochs * math.ceil(math.ceil(rows / batch_size) / accumulation)


def epochs_text(count: float) -> str:
    """Such as "1 epoch" and "8.8 epochs"."""
    text = f"{count:.1f}".removesuffix(".0")
    return f"{text} epoch" if text == "1" else f"{text} epochs"
