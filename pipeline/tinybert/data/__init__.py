"""Input data: sources and file formats, rows, word vectors, long arrays on disk."""
