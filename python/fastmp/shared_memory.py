"""The stdlib's own module under our name: it is `multiprocessing.shared_memory`."""

import sys
from multiprocessing import shared_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.shared_memory import *  # noqa: F403

sys.modules[__name__] = shared_memory
