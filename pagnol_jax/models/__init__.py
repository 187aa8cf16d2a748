"""Flax modules: one attention, one block, positions and activations as values."""
