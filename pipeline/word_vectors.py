"""Read word vectors from an installed package, gensim's downloads or a text file, the most frequent words first.

Writes `data/word_vectors`: `vectors.npy` (words, dimensions) in float32, `words.txt` with one word per line, and
`stop_words.txt` with the words that augmentation never replaces.
"""

from pathlib import Path

from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output
from pipeline.tinybert.data import word_vectors

OUT = Path("data/word_vectors")


def main() -> None:
    group = settings.load().word_vectors
    vectors = word_vectors.fetch(group.location, group.words, "word_vectors.location")
    stop_words = word_vectors.stop_words(group.stop_words, "word_vectors.stop_words")
    log(f"{len(vectors)} words of {vectors.vector_size} dimensions, {len(stop_words)} stop words")
    with output(OUT) as out:
        word_vectors.save(vectors, stop_words, out)


if __name__ == "__main__":
    stage.run(main)
