"""What a training step takes and does: examples, losses, optimizers, several processes, and its record."""
