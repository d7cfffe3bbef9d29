"""The checks of every format. Importing them imports what they check: atheris does it under its
instruments.
"""

import data_readers  # noqa: F401  imported, each registers its checks
import evaluation_checks  # noqa: F401
import hub_readers  # noqa: F401
import model_readers  # noqa: F401
from checks import CHECKS as CHECKS
