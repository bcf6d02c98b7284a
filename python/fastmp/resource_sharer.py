"""The stdlib's own module under our name: it is `multiprocessing.resource_sharer`."""

import sys
from multiprocessing import resource_sharer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.resource_sharer import *  # noqa: F403

sys.modules[__name__] = resource_sharer
