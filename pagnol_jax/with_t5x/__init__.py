"""Our GPT, mixtures and sharding under t5x's trainer (optional: t5x is installed apart, see docs/t5x.md).

A gin file for `python -m t5x.train` imports from here first: that puts our gin/ folder on gin's search path, so that
the `include`s after it are found whatever the working folder.
"""

import gin

from pagnol_jax.cli.gin_files import SEARCH_PATH

for folder in SEARCH_PATH:
    gin.add_config_file_search_path(str(folder))
# As in `cli.gin_files.parse`: files are files. gin's reader of resources takes a `runs/` on sys.path for a package.
gin.config._FILE_READERS[1:] = []
