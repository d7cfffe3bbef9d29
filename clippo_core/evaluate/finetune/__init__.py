"""Fine-tuning a whole tower: a problem, one trial, and the sweep over learning rates."""
