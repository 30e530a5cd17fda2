"""The folder to ship: the student as PyTorch and as ONNX, its tokenizer, and a model card made of what was measured."""

import json
import shutil
from pathlib import Path

from pipeline.tinybert import tasks
from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output, write_csv
from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.release import model_card

MEASURED = ("scores", "export", "benchmark")
INPUTS = ("train", "validation", "test")


def main(name: str) -> None:
    configuration = settings.load()
    prepared, made = Path("data", name, "prepared"), Path("models", name)
    task = tasks.load(prepared / "task.json", configuration.task(name), name)
    facts = {file: json.loads(Path("metrics", name, f"{file}.json").read_text(encoding="utf-8")) for file in MEASURED}
    files = [
        *(prepared / f"{part}.jsonl" for part in INPUTS),
        *(made / "onnx" / file for file in checkpoints.FILES.values()),
    ]

    with output(made / "release") as out:
        (out / "onnx").mkdir()
        for file in sorted((made / "onnx").iterdir()):
            shutil.copyfile(file, out / ("onnx" if file.suffix == ".onnx" else "") / file.name)
        model_card.of(task, name, configuration, configuration.numerics, facts, files).save(out / "README.md")
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    with output(Path("metrics", name, "package")) as out:
        write_csv(out / "score.csv", ["model", "milliseconds", "score"], scores_and_times(task.metric, facts))
    log(f"models/{name}/release: {size / 1e6:.1f} MB, its card README.md")


def scores_and_times(metric: str, facts: dict[str, dict]) -> list[tuple[str, float, float]]:
    """Of each model that has a score on test, the milliseconds that it takes to answer, and the score."""
    scores = {("teacher", "pytorch"): facts["scores"]["teacher"]}
    scores |= {("student", form): facts["export"][form] for form in checkpoints.FILES}
    return [
        (f"{which} {form}", facts["benchmark"][which][form]["p50"], score[metric])
        for (which, form), score in scores.items()
    ]


if __name__ == "__main__":
    stage.run(main, "task")
