"""What is learnt: corpora, vocabularies, batches."""
