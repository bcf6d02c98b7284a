"""The stdlib's own module under our name: `fastmp.spawn is multiprocessing.spawn`."""

import sys
from multiprocessing import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.spawn import *  # noqa: F403

sys.modules[__name__] = spawn
