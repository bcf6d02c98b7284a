"""The stdlib's own module under our name: `fastmp.shared_memory is multiprocessing.shared_memory`."""

import sys
from multiprocessing import shared_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.shared_memory import *  # noqa: F403

sys.modules[__name__] = shared_memory
