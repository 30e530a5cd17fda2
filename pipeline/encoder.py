"""Take the pre-trained encoder, and a masked language model: the encoder's own, or one trained on unlabelled text.

`models/pretrained/encoder` is the unchanged encoder, from which teacher and student start;
`models/pretrained/masked_language_model` proposes the words that `augment` puts in place of others. They are two
models because training the latter changes its body, and a teacher that starts from that body is worse.
"""

from pathlib import Path

from transformers import AutoModel, AutoModelForMaskedLM

from pipeline.tinybert.augmentation.masked_language_model import train_head
from pipeline.tinybert.core import curves, resume, settings, stage
from pipeline.tinybert.core.output import output
from pipeline.tinybert.data import locations, sources
from pipeline.tinybert.models import checkpoints

KEY = "encoder.checkpoint"
ENCODER = Path("models/pretrained/encoder")
MASKED_LANGUAGE_MODEL = Path("models/pretrained/masked_language_model")
METRICS = Path("metrics/pretrained/encoder")


def main() -> None:
    configuration = settings.load()
    encoder = configuration.encoder
    folder = locations.checkpoint_folder(encoder.checkpoint, KEY)
    tokenizer = checkpoints.encoder_tokenizer(folder, KEY)
    body = checkpoints.load(AutoModel, folder, KEY)
    model, report = checkpoints.load_and_report(AutoModelForMaskedLM, folder, KEY)

    curve = {}
    numerics = settings.Numerics(seed=encoder.seed, precision=configuration.precision)
    if encoder.masked_language_model.train == "always" or report["missing_keys"]:
        text = sources.texts(encoder.masked_language_model.text, encoder.seed, "encoder.masked_language_model.text")
        curve = train_head(model, tokenizer, text, encoder.masked_language_model, numerics).curves

    with output(ENCODER) as out:
        checkpoints.save(out, body, tokenizer)
    with output(MASKED_LANGUAGE_MODEL) as out:
        checkpoints.save(out, model, tokenizer)
    with output(METRICS) as out:
        curves.write(out, curve)


if __name__ == "__main__":
    stage.run(main, within=resume.stage_folder)
