"""Direct Feedback Alignment: a drop-in for `jax.value_and_grad` on any Flax (linen) module.

Launay et al. 2020, Direct Feedback Alignment Scales to Modern Deep Learning Tasks and Architectures
(arXiv:2006.12878); Nøkland 2016 (arXiv:1609.01596).
"""

from pagnol_jax.dfa.alignment import Alignment, alignment, rms, signals
from pagnol_jax.dfa.gradient import init, learns, value_and_grad

__all__ = ["Alignment", "alignment", "init", "learns", "rms", "signals", "value_and_grad"]
