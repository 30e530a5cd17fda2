"""The student learns the teacher's embeddings, hidden states and attention scores (of several teachers, the first's).

Also writes the teacher's logits of every row of the transfer set (augmented rows, then unlabelled ones) to
`data/<task>/teacher_logits`: of several teachers, the mean.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.tinybert import tasks
from pipeline.tinybert.core import curves, launch, resume, settings
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output, write_json
from pipeline.tinybert.distillation import teacher_logits, transfer_set
from pipeline.tinybert.distillation.intermediate import LogitsRecorder, learn_intermediate
from pipeline.tinybert.distillation.teacher_logits import TeacherLogits
from pipeline.tinybert.models import alignment, checkpoints, ensembles
from pipeline.tinybert.models.alignment import SecondReading
from pipeline.tinybert.models.encoded_rows import EncodedRows
from pipeline.tinybert.models.known_logits import KnownLogits
from pipeline.tinybert.tasks import Task
from pipeline.tinybert.training.loop import Result


def main(name: str) -> None:
    configuration = settings.load()
    recipe, numerics = configuration.of("distill_intermediate", name), configuration.numerics
    task = tasks.load(Path("data", name, "prepared", "task.json"), configuration.task(name), name)
    tokenizer = checkpoints.tokenizer(Path("models", name, "general_student"))
    known = KnownLogits.load(task, Path("models", name, "teacher"))
    folders = [] if known else ensembles.folders(Path("models", name, "teacher"))
    others = [checkpoints.tokenizer(folder) for folder in folders]
    student = task.load_model(Path("models", name, "general_student"), configuration.seed)
    learned = Result(score=math.nan, epoch=0, rows=0, steps=0, curves={})
    for other in others:
        if alignment.reads_the_same(tokenizer, other):
            tokenizer.model_max_length = min(tokenizer.model_max_length, other.model_max_length)
    others = [None if alignment.reads_the_same(tokenizer, other) else other for other in others]
    with (
        resume.folder("transfer") as folder,
        closing(transfer_set.encode(task, transfer_set.rows(task, name), tokenizer, folder)) as data,
        ExitStack() as opened,
    ):
        found: list[TeacherLogits] = []
        if known:
            log("the teacher is a file of predictions, without hidden states: the intermediate stage is skipped")
            found.append(opened.enter_context(open_logits(folder, data, task)))
            if launch.rank() == 0:
                teacher_logits.put_known(found[0], known, transfer_set.rows(task, name))
        for number, (of_teacher, other) in enumerate(zip(folders, others, strict=True), 1):
            own = folder if number == 1 else opened.enter_context(resume.folder(f"teacher-{number}"))
            logits = opened.enter_context(open_logits(own, data, task))
            found.append(logits)
            reading = opened.enter_context(second_reading(task, name, tokenizer, other, number))
            teacher, rest = task.load_model(of_teacher), np.ones(len(data), dtype=bool)
            if recipe.epochs and number == 1:
                part = transfer_set.sample(data, recipe.max_rows, configuration.seed)
                recorder = LogitsRecorder(task, logits)
                body: Any = student.base_model
                stage = "distill_intermediate"
                learned = learn_intermediate(body, teacher, part, tokenizer, recipe, numerics, stage, recorder, reading)
                rest[slice(None) if part.numbers is None else part.numbers] = False
            numbers = np.flatnonzero(rest).astype(np.int32)
            teacher_logits.fill(logits, teacher, task, data, tokenizer, numerics, numbers, reading)
        with output(Path("data", name, "teacher_logits")) as out:
            if launch.rank() == 0:
                teacher_logits.save_mean(found, out)

    with output(Path("models", name, "intermediate")) as out:
        checkpoints.save(out, student, tokenizer)
    with output(Path("metrics", name, "distill_intermediate")) as out:
        curves.write(out, learned.curves)
        write_json(
            out / "training.json", {"rows": learned.rows, "steps": learned.steps, "learning_rate": recipe.learning_rate}
        )


def open_logits(folder: Path, data: EncodedRows, task: Task) -> closing[TeacherLogits]:
    return closing(TeacherLogits.open_or_create(folder, data.logit_counts(), task.num_classes))


@contextmanager
def second_reading(task: Task, name: str, tokenizer, other, number: int) -> Iterator[SecondReading | None]:
    """The transfer set as the tokenizer ``other`` of the teacher of this number reads it; None if there is none."""
    if other is None:
        yield None
        return
    with resume.folder(f"transfer-{number}") as folder:
        reading = transfer_set.read_again(task, transfer_set.rows(task, name), tokenizer, other, folder)
        with closing(reading.encoded):
            yield reading


if __name__ == "__main__":
    launch.run(main, "task", within=resume.stage_folder)
