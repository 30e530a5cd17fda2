"""Take the pre-trained encoder and, where it has none, train its masked-language-model head on unlabelled text.

The head proposes the words that `augment` puts in place of others. `models/pretrained/encoder` is a snapshot that needs
no network: encoder, head and tokenizer.
"""

from pathlib import Path

from transformers import AutoModel, AutoModelForMaskedLM

from pipeline.tinybert import models, settings, sources, stage
from pipeline.tinybert.masked_language_model import train_head
from pipeline.tinybert.rows import write_csv

OUT = Path("models/pretrained/encoder")
CURVE = Path("metrics/pretrained/encoder/loss.csv")


def main() -> None:
    encoder = settings.load().encoder
    folder = sources.checkpoint_folder(encoder.checkpoint, "encoder.checkpoint")
    tokenizer = models.tokenizer(folder, "encoder.checkpoint")
    model, loading = models.load(AutoModelForMaskedLM, folder, "encoder.checkpoint", output_loading_info=True)
    models.check_family(model, "encoder.checkpoint")

    curve = []
    if encoder.masked_language_model.train == "always" or loading["missing_keys"]:
        text = sources.texts(encoder.masked_language_model.text, encoder.seed, "encoder.masked_language_model.text")
        curve = train_head(model, tokenizer, text, encoder.masked_language_model, encoder.seed)

    body = models.load(AutoModel, folder, "encoder.checkpoint")
    with stage.output(OUT) as out:
        models.save(out, model, tokenizer, state_dict=models.with_pooler_of(body, model))
    with stage.output(CURVE) as out:
        write_csv(out, ["step", "epoch", "loss"], curve)


if __name__ == "__main__":
    stage.run(main)
