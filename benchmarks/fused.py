"""CPU time of a task's int8 student with plain and with fused attention, on one thread: ``python benchmarks/fused.py``.

It needs models/<task>/onnx, from `dvc repro` or `dvc pull`. The two files run in turn; the table has medians.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from transformers import AutoConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.tinybert.models import checkpoints
from pipeline.tinybert.release import latency, onnx_model

ROUNDS = 200
LENGTHS = (27, 128, 384)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", default="rotten_tomatoes")
    folder = Path("models", parser.parse_args().task, "onnx")
    tokenizer, config = checkpoints.tokenizer(folder), AutoConfig.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, "int8.onnx")
        onnx_model.quantise(folder / "model.onnx", file, config, tokenizer, per_channel=True, reduce_range=True)
        runs = {"fused": latency.onnx_runner(file, threads=1)}
        onnx_model.fuse_attention = lambda content: (content, 0)
        onnx_model.quantise(folder / "model.onnx", file, config, tokenizer, per_channel=True, reduce_range=True)
        runs["plain"] = latency.onnx_runner(file, threads=1)
    print("| word pieces | int8, plain | int8, fused | less time |\n|---|---|---|---|")
    for length in LENGTHS:
        inputs = latency.random_inputs(tokenizer, 1, length)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, run in runs.items():
                start = time.process_time()
                run(inputs)
                times[name].append(time.process_time() - start)
        plain, fused = (1000 * statistics.median(times[name]) for name in ("plain", "fused"))
        print(f"| {length} | {plain:.2f} | {fused:.2f} | {1 - fused / plain:.0%} |")


if __name__ == "__main__":
    main()
