"""The data room: corpora, byte-level BPE, seqio tasks, the token cache and batches."""
