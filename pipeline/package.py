"""The folder to ship: the student as PyTorch and as ONNX, its tokenizer, and a model card made of what was measured."""

import json
import shutil
from pathlib import Path

from pipeline.tinybert import card, settings, stage, tasks

MEASURED = ("scores", "export", "benchmark")
INPUTS = ("train", "validation", "test")


def main(name: str) -> None:
    configuration = settings.load()
    prepared, models = Path("data", name, "prepared"), Path("models", name)
    task = tasks.load(prepared / "task.json", configuration.task(name), name)
    facts = {file: json.loads(Path("metrics", name, f"{file}.json").read_text(encoding="utf-8")) for file in MEASURED}
    files = [*(prepared / f"{part}.jsonl" for part in INPUTS), models / "onnx" / "model.safetensors"]

    with stage.output(models / "release") as out:
        (out / "onnx").mkdir()
        for file in sorted((models / "onnx").iterdir()):
            shutil.copyfile(file, out / ("onnx" if file.suffix == ".onnx" else "") / file.name)
        card.of(task, name, configuration, configuration.numerics, facts, files).save(out / "README.md")
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    stage.say(f"models/{name}/release: {size / 1e6:.1f} MB, its card README.md")


if __name__ == "__main__":
    stage.run(main, "task")
