"""Weights of other formats: one bidirectional table of names and layouts for each."""
