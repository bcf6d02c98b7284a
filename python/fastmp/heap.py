"""The stdlib's own module under our name: `fastmp.heap is multiprocessing.heap`."""

import sys
from multiprocessing import heap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.heap import *  # noqa: F403

sys.modules[__name__] = heap
