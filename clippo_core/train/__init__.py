"""Pretraining: the loop and what stands around it (lease, saving, speed, recording)."""
