"""Augment the training rows: the masked language model and GloVe propose words, a seeded draw chooses among them."""

import os
from pathlib import Path

from transformers import AutoModelForMaskedLM

from pipeline.tinybert import tasks
from pipeline.tinybert.augmentation import new_pairs, word_replacement
from pipeline.tinybert.augmentation.word_replacement import Augmenter
from pipeline.tinybert.core import launch, resume, settings
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output
from pipeline.tinybert.data import rows, word_vectors
from pipeline.tinybert.models import checkpoints

FEW = 0.25  # share of the variants that were asked for
MASKED_LANGUAGE_MODEL = Path("models/pretrained/masked_language_model")
# torch and oneDNN cache kernels for the last 1,024 batch shapes, up to 600 MiB. Here few shapes occur twice.
CACHES_OF_SHAPES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")


def main(name: str) -> None:
    for cache in CACHES_OF_SHAPES:
        os.environ.setdefault(cache, "32")
    configuration = settings.load()
    prepared = Path("data", name, "prepared")
    train = prepared / "train.jsonl"
    recipe = word_replacement.with_variants(configuration.of("augment", name), rows.count(train))
    task = tasks.load(configuration, name)

    augmenter = Augmenter(
        task,
        checkpoints.load(AutoModelForMaskedLM, MASKED_LANGUAGE_MODEL),
        checkpoints.tokenizer(MASKED_LANGUAGE_MODEL),
        *word_vectors.load("data/word_vectors"),
        recipe,
        rows.read(train),
    )
    with resume.folder("rows") as folder, output(Path("data", name, "augmented")) as out:
        rows_file, splits = out / "rows.jsonl", sorted(prepared.glob("*.jsonl"))
        total, count = word_replacement.write_all(augmenter, train, folder, rows_file)
        pairs = launch.first(lambda: new_pairs.append(task, rows_file, splits, recipe.new_pairs, recipe.seed))
    log(f"{total} training rows augmented to {count} rows (originals and variants)")
    if pairs:
        log(f"{pairs} new pairs of their texts added, without labels")
    if count - total < FEW * augmenter.most_variants * total:
        log(
            "few words could be replaced: bring word vectors of the texts' language (word_vectors.location) and an"
            " encoder of that language, or set augment.variants: 0: see docs/your-task.md, Other languages"
        )


if __name__ == "__main__":
    launch.run(main, "task", within=resume.stage_folder)
