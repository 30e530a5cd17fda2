"""The teachers of a student: it learns the hidden states of the first one, and the mean logits of all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, cast

from transformers import PreTrainedModel

from pipeline.tinybert.core import launch, resume
from pipeline.tinybert.core.log import log
from pipeline.tinybert.distillation import teacher_logits, transfer_set
from pipeline.tinybert.distillation.intermediate import LogitsRecorder, learn_intermediate
from pipeline.tinybert.distillation.teacher_logits import TeacherLogits
from pipeline.tinybert.models import checkpoints, ensembles
from pipeline.tinybert.models.alignment import SecondReading
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.known_logits import KnownLogits
from pipeline.tinybert.training.plan import Result

if TYPE_CHECKING:
    from pipeline.tinybert.core.settings import DistillIntermediate, Numerics
    from pipeline.tinybert.tasks import Task

STAGE = "distill_intermediate"


class Teachers:
    """The teachers of task ``name``: one or several models, or a file of predictions.

    ``tokenizer``: the student's. Its maximum length becomes at most that of each teacher that reads texts like it.
    """

    def __init__(self, task: Task, name: str, tokenizer, numerics: Numerics):
        self.task, self.name, self.tokenizer, self.numerics = task, name, tokenizer, numerics
        folder = Path("models", name, "teacher")
        self.known = KnownLogits.load(task, folder)
        self.folders = [] if self.known else ensembles.folders(folder)
        found = [checkpoints.tokenizer(path) for path in self.folders]
        self.others = ensembles.other_tokenizers(tokenizer, found)
        alike = [one.model_max_length for one, other in zip(found, self.others, strict=True) if other is None]
        tokenizer.model_max_length = min([tokenizer.model_max_length, *alike])

    @contextmanager
    def logits(self, data: EncodedRows) -> Iterator[list[TeacherLogits]]:
        """The logits of each teacher for the transfer set ``data``, as far as an interrupted run has computed them."""
        counts, numbers = data.logit_counts(), range(1, 1 + (len(self.folders) or 1))
        with ExitStack() as opened:
            folders = [opened.enter_context(resume.folder(f"teacher-{number}")) for number in numbers]
            several = (TeacherLogits.open_or_create(folder, counts, self.task.num_classes) for folder in folders)
            yield [opened.enter_context(closing(logits)) for logits in several]

    def teach(
        self, student: PreTrainedModel, data: EncodedRows, several: list[TeacherLogits], recipe: DistillIntermediate
    ) -> Result:
        """Train ``student``'s encoder in place on the first teacher's states; compute the logits of all teachers."""
        if self.known:
            log("the teacher is a file of predictions, without hidden states: the intermediate stage is skipped")
            if launch.rank() == 0:
                teacher_logits.put_known(several[0], self.known, transfer_set.rows(self.task, self.name))
            return Result()
        learned, encoder = Result(), cast(PreTrainedModel, student.base_model)
        for folder, other, logits in zip(self.folders, self.others, several, strict=True):
            reading = None if other is None else self.second_reading(other, logits.folder)
            with closing(reading.encoded) if reading else nullcontext():
                teacher, rest = self.task.load_model(folder), None  # all rows
                if recipe.epochs and logits is several[0]:
                    part = transfer_set.sample(data, recipe.max_rows, self.numerics.seed)
                    recorder = LogitsRecorder(self.task, logits)
                    learned = learn_intermediate(
                        encoder, teacher, part, self.tokenizer, recipe, self.numerics, STAGE, recorder, reading
                    )
                    rest = part.others()
                teacher_logits.fill(logits, teacher, self.task, data, self.tokenizer, self.numerics, rest, reading)
        return learned

    def second_reading(self, tokenizer, folder: Path) -> SecondReading:
        """The transfer set as a teacher's own ``tokenizer`` reads it, in files in ``folder``."""
        rows = transfer_set.rows(self.task, self.name)
        return transfer_set.read_again(self.task, rows, self.tokenizer, tokenizer, folder)
