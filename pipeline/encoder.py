"""Take the pre-trained encoder, and a masked language model: the encoder's own, or one trained on unlabelled text.

`models/pretrained/encoder` is the encoder as it came, where teacher and student start;
`models/pretrained/masked_language_model` proposes the words that `augment` puts in place of others. They are apart
because training the latter changes its body, and a teacher that starts from that body is worse.
"""

from pathlib import Path

from transformers import AutoModel, AutoModelForMaskedLM

from pipeline.tinybert import curves, models, scratch, settings, sources, stage
from pipeline.tinybert.masked_language_model import train_head

ENCODER = Path("models/pretrained/encoder")
MASKED_LANGUAGE_MODEL = Path("models/pretrained/masked_language_model")
METRICS = Path("metrics/pretrained/encoder")


def main() -> None:
    configuration = settings.load()
    encoder = configuration.encoder
    folder = sources.checkpoint_folder(encoder.checkpoint, "encoder.checkpoint")
    tokenizer = models.tokenizer(folder, "encoder.checkpoint")
    body = models.load(AutoModel, folder, "encoder.checkpoint")
    models.check_family(body.config, "encoder.checkpoint")
    model, loading = models.load(AutoModelForMaskedLM, folder, "encoder.checkpoint", output_loading_info=True)

    curve = {}
    numerics = settings.Numerics(seed=encoder.seed, precision=configuration.precision)
    if encoder.masked_language_model.train == "always" or loading["missing_keys"]:
        text = sources.texts(encoder.masked_language_model.text, encoder.seed, "encoder.masked_language_model.text")
        curve = train_head(model, tokenizer, text, encoder.masked_language_model, numerics)

    with stage.output(ENCODER) as out:
        models.save(out, body, tokenizer)
    with stage.output(MASKED_LANGUAGE_MODEL) as out:
        models.save(out, model, tokenizer)
    with stage.output(METRICS) as out:
        curves.write(out, curve)


if __name__ == "__main__":
    stage.run(main, within=scratch.of_stage)
