"""Imported once by the server from which `ranks` forks: what every training process would otherwise
import for itself.
"""

import scipy.sparse.csgraph  # noqa: F401  imported to be there, as the next two
import tiny  # noqa: F401

import clippo_core.train.__main__  # noqa: F401
from clippo_core.models import load_timm
from clippo_core.run.provenance import code_digest

load_timm()
code_digest("clippo_core.train.loop")
