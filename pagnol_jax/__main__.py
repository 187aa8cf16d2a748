"""`python -m pagnol_jax` is `pagnol`."""

import sys

from pagnol_jax.cli.main import main

sys.exit(main())
