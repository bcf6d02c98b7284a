"""The stdlib's own module under our name: `fastmp.forkserver is multiprocessing.forkserver`."""

import sys
from multiprocessing import forkserver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.forkserver import *  # noqa: F403

sys.modules[__name__] = forkserver
