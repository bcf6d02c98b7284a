"""The stdlib's own module under our name: it is `multiprocessing.resource_tracker`."""

import sys
from multiprocessing import resource_tracker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.resource_tracker import *  # noqa: F403

sys.modules[__name__] = resource_tracker
