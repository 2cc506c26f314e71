"""Data: corpora, vocabularies, batches."""
