"""Rows on disk: sources, records, splits, word vectors."""
