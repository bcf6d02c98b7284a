"""The stdlib's own module under our name: `fastmp.process is multiprocessing.process`."""

import sys
from multiprocessing import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.process import *  # noqa: F403

sys.modules[__name__] = process
