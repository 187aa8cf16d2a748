"""Training of the DFA study, a module per domain."""
