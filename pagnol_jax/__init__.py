"""pagnol_jax: French GPT pre-training, scaling laws and Direct Feedback Alignment in JAX."""

__version__ = "0.1.0"
