"""One network: the task, the loop over epochs, the optimizer, checkpoints."""
