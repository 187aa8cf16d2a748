"""Ahead-of-time compilation of the training step for TPU topologies, on any machine."""
