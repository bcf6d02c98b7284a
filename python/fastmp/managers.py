"""The stdlib's own module under our name: `fastmp.managers is multiprocessing.managers`."""

import sys
from multiprocessing import managers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.managers import *  # noqa: F403

sys.modules[__name__] = managers
