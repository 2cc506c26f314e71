"""Models: recurrent cells, dropouts, softmaxes, language models."""
