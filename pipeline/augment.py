"""Replace words of the training rows: the masked language model and GloVe propose, a seeded draw chooses."""

from pathlib import Path

from transformers import AutoModelForMaskedLM

from pipeline.tinybert import augmentation, models, processes, rows, scratch, settings, stage, tasks, vectors
from pipeline.tinybert.augmentation import Augmenter

MASKED_LANGUAGE_MODEL = Path("models/pretrained/masked_language_model")


def main(name: str) -> None:
    configuration = settings.load()
    recipe = configuration.of("augment", name)
    prepared = Path("data", name, "prepared")
    task = tasks.load(prepared / "task.json", configuration.task(name), name)
    train = prepared / "train.jsonl"

    augmenter = Augmenter(
        task,
        models.load(AutoModelForMaskedLM, MASKED_LANGUAGE_MODEL),
        models.tokenizer(MASKED_LANGUAGE_MODEL),
        *vectors.load("data/word_vectors"),
        recipe,
        rows.read(train),
    )
    with scratch.folder("rows") as folder, stage.output(Path("data", name, "augmented")) as out:
        total, count = augmentation.write_all(augmenter, train, folder, out / "rows.jsonl")
    stage.say(f"{total} rows became {count}")


if __name__ == "__main__":
    processes.run(main, "task", within=scratch.of_stage)
