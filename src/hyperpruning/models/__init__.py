"""What learns: recurrent language models."""
