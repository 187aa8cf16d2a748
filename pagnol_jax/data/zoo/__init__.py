"""Readers of the data of the DFA study: Planetoid graphs, Criteo rows, posed images."""
