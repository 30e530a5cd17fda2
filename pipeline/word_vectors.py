"""Take GloVe vectors from an installed package, gensim's downloads or a text file, most frequent words first.

`data/word_vectors` holds `word_vectors.npy` (words, dimensions), float32, and `words.txt`, a word a line; and with them
`stop_words.txt`, the words of the language that are not replaced.
"""

from pathlib import Path

from pipeline.tinybert.core import settings, stage
from pipeline.tinybert.core.log import log
from pipeline.tinybert.core.output import output
from pipeline.tinybert.data import word_vectors

OUT = Path("data/word_vectors")


def main() -> None:
    wanted = settings.load().word_vectors
    found = word_vectors.fetch(wanted.location, wanted.words, "word_vectors.location")
    stop = word_vectors.stop_words(wanted.stop_words, "word_vectors.stop_words")
    log(f"{len(found)} words of {found.vector_size} dimensions, {len(stop)} stop words")
    with output(OUT) as out:
        word_vectors.save(found, stop, out)


if __name__ == "__main__":
    stage.run(main)
