"""The strategies of every format. A module of strategies that is not named here is not fuzzed."""

import data_files  # noqa: F401  imported, each registers its strategies
import evaluation_files  # noqa: F401
import hub_files  # noqa: F401
import model_files  # noqa: F401
from strategies import STRATEGIES as STRATEGIES
