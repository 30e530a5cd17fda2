"""Other ways to distil, with the same teacher, student, rows and time: `python benchmarks/distillers.py TASK`.

The task's stages must have run in the workspace (``--within``). Its two distillation stages run again in a copy; their
time is the budget of the others for each learning rate:

- plain loop: the teacher's logits of all rows once, then transformers.Trainer with a KL loss on them.
- TextBrewer: hidden states, attention and logits at once, with the teacher in every step, as in its examples. It needs
  `pip install textbrewer tensorboard`, which are not in requirements.txt.

Of the learning rates (``--rates``), the best on validation is scored on test. For texts or pairs with classes, and one
teacher with the student's tokenizer.
"""

import argparse
import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from comparison import machine, print_table
from killed import copy_workspace
from small import change
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, get_linear_schedule_with_warmup, set_seed

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings
from pipeline.tinybert.data import rows
from pipeline.tinybert.distillation import transfer_set
from pipeline.tinybert.distillation.layer_map import map_layers
from pipeline.tinybert.models import checkpoints, ensembles
from pipeline.tinybert.models.inference import EvaluationSet, pytorch_forward

BATCH, WARMUP, WEIGHT_DECAY = 32, 0.1, 0.01
TIMED_STEPS = 100
FIELDS = ("text", "pair")


@dataclass
class Work:
    """What all methods share."""

    name: str
    seed: int
    rates: list[float]

    def __post_init__(self):
        configuration = settings.load()
        if (kind := configuration.task(self.name).kind) != "text_classification":
            sys.exit(f"{self.name}: expected a task of text_classification, found {kind}")
        self.task = tasks.load(configuration, self.name)
        self.tokenizer = checkpoints.tokenizer(Path("models", self.name, "general_student"))
        teachers = ensembles.folders(Path("models", self.name, "teacher"))
        if len(teachers) > 1 or checkpoints.tokenizer(teachers[0]).get_vocab() != self.tokenizer.get_vocab():
            sys.exit(f"{self.name}: expected one teacher with the student's tokenizer: use another task")
        self.collate = DataCollatorWithPadding(self.tokenizer)
        self.parts = {
            part: EvaluationSet(self.task, list(rows.read(f"data/{self.name}/prepared/{part}.jsonl")), self.tokenizer)
            for part in ("validation", "test")
        }

    def encoded(self) -> list[dict]:
        """All rows of the transfer set."""
        found = []
        for row in transfer_set.rows(self.task, self.name):
            texts = [row[field] for field in FIELDS if field in row]
            found.append(dict(self.tokenizer(*texts, truncation=True, max_length=self.task.max_length)))
        return found

    def model(self, which: str) -> torch.nn.Module:
        return self.task.load_model(Path("models", self.name, which), self.seed)

    def score(self, model: torch.nn.Module, part: str) -> float:
        with pytorch_forward(self.task, model) as forward:
            return self.parts[part].score(self.parts[part].logits(forward))[self.task.metric]


def ours(work: Work) -> tuple[float, float]:
    """The seconds of both distillation stages, and the student's score."""
    begin = time.perf_counter()
    for stage in ("distill_intermediate", "distill_prediction"):
        with open("output.log", "ab") as log:
            command = [sys.executable, "-m", f"pipeline.{stage}", work.name]
            subprocess.run(command, check=True, stdout=log, stderr=log)
    return time.perf_counter() - begin, work.score(work.model("student"), "test")


def plain_loop(work: Work, seconds: float) -> tuple[int, float, float]:
    """Its steps, seconds and score on test."""
    begin, data, teacher = time.perf_counter(), work.encoded(), work.model("teacher").eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for batch in (data[start : start + BATCH] for start in range(0, len(data), BATCH)):
            logits = teacher(**work.collate(batch)).logits.float()
            for row, of_row in zip(batch, logits, strict=True):
                row["teacher"] = of_row.tolist()
    print(f"plain loop: the teacher's logits took {time.perf_counter() - begin:.0f} s", flush=True)
    spent = time.perf_counter() - begin

    def train(student: torch.nn.Module, rate: float, steps: int) -> None:
        with tempfile.TemporaryDirectory() as output:
            options = TrainingArguments(
                output, max_steps=steps, learning_rate=rate, per_device_train_batch_size=BATCH, seed=work.seed,
                warmup_steps=int(WARMUP * steps), weight_decay=WEIGHT_DECAY, bf16=True, use_cpu=True, report_to="none",
                save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, remove_unused_columns=False,
                logging_strategy="no",
            )  # fmt: skip
            OnLogits(student, options, train_dataset=data, data_collator=work.collate).train()

    return best_of_rates(work, train, seconds, spent)


class OnLogits(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **more):
        teacher = inputs.pop("teacher").float().log_softmax(-1)
        outputs = model(**inputs)
        student = outputs.logits.float().log_softmax(-1)
        loss = torch.nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return (loss, outputs) if return_outputs else loss


def textbrewer(work: Work, seconds: float) -> tuple[int, float, float]:
    """Its steps, seconds and score on test."""
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    begin, data, teacher = time.perf_counter(), work.encoded(), work.model("teacher").eval()
    teacher.set_attn_implementation("eager")  # others return no attention
    spent = time.perf_counter() - begin
    ours, teachers = (work.model(which).config for which in ("general_student", "teacher"))
    layers = map_layers("auto", ours.num_hidden_layers, teachers.num_hidden_layers, "distillers.py")
    chosen = list(zip([0, *layers], range(len(layers) + 1), strict=True))  # 0: the embeddings
    projection = None
    if ours.hidden_size != teachers.hidden_size:
        projection = ["linear", ours.hidden_size, teachers.hidden_size]
    matches = [
        {"layer_T": t, "layer_S": s, "feature": "hidden", "loss": "hidden_mse", "weight": 1, "proj": projection}
        for t, s in chosen
    ] + [
        {"layer_T": t - 1, "layer_S": s - 1, "feature": "attention", "loss": "attention_mse", "weight": 1}
        for t, s in chosen[1:]
    ]

    def adapt(batch, outputs) -> dict:
        found = {"logits": outputs.logits, "hidden": outputs.hidden_states, "attention": outputs.attentions}
        return {**found, "inputs_mask": batch["attention_mask"]}

    def train(student: torch.nn.Module, rate: float, steps: int) -> None:
        student.set_attn_implementation("eager")
        with tempfile.TemporaryDirectory() as output:
            distiller = GeneralDistiller(
                TrainingConfig(output_dir=output, log_dir=output, device="cpu", ckpt_steps=steps + 1),
                DistillationConfig(temperature=1, hard_label_weight=0, kd_loss_type="ce", intermediate_matches=matches),
                teacher, student, adapt, adapt,
            )  # fmt: skip
            loader = DataLoader(data, BATCH, shuffle=True, collate_fn=lambda batch: dict(work.collate(batch)))
            optimizer = torch.optim.AdamW(student.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
            with distiller:
                distiller.train(
                    optimizer, loader, num_steps=steps, max_grad_norm=1.0, output_hidden_states=True,
                    scheduler_class=get_linear_schedule_with_warmup, output_attentions=True, callback=None,
                    scheduler_args={"num_warmup_steps": int(WARMUP * steps), "num_training_steps": steps},
                )  # fmt: skip

    return best_of_rates(work, train, seconds, spent)


def best_of_rates(work: Work, train: Callable, seconds: float, spent: float) -> tuple[int, float, float]:
    """Train with each learning rate, for as many steps as fit into ``seconds``, of which ``spent`` are gone before.

    Returns the steps, the seconds that the best rate took with those spent, and its score on test.
    """

    def trained(rate: float, steps: int) -> torch.nn.Module:
        set_seed(work.seed)
        student = work.model("general_student")
        train(student, rate, steps)
        return student

    begin = time.perf_counter()
    trained(work.rates[0], TIMED_STEPS)
    steps = max(1, int((seconds - spent) / (time.perf_counter() - begin) * TIMED_STEPS))
    found = []
    for rate in work.rates:
        begin, student = time.perf_counter(), trained(rate, steps)
        took = spent + time.perf_counter() - begin
        validation, test = (work.score(student, part) for part in ("validation", "test"))
        print(f"  {rate:g}: {steps} steps, {took:.0f} s; validation {validation:.4f}, test {test:.4f}", flush=True)
        found.append((validation, took, test))
    _, took, test = max(found)
    return steps, took, test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("--within", type=Path, default=ROOT, help="the workspace in which the task's stages ran")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4])
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy_workspace(given.within, Path(folder))
        with contextlib.chdir(folder):
            os.environ["PYTHONPATH"] = str(ROOT)
            change(Path("params.yaml"), {"seed": given.seed})
            work = Work(given.task, given.seed, given.rates)
            seconds, score = ours(work)
            table = [["this pipeline", "", f"{seconds:.0f}", f"{100 * score:.1f}"]]
            others = {"plain loop": plain_loop}
            if importlib.util.find_spec("textbrewer"):
                others["TextBrewer"] = textbrewer
            for name, method in others.items():
                print(f"{name}: at most {seconds:.0f} s", flush=True)
                steps, took, score = method(work, seconds)
                table.append([name, str(steps), f"{took:.0f}", f"{100 * score:.1f}"])
            table.append(["teacher", "", "", f"{100 * work.score(work.model('teacher'), 'test'):.1f}"])
    print(f"\n{machine()}")
    print_table(["method", "steps", "seconds", f"{work.task.metric} on test"], table)


if __name__ == "__main__":
    main()
