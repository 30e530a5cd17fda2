"""Input data: sources and file formats, rows, splits, word vectors, long arrays on disk."""
