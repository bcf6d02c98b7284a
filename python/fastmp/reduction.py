"""The stdlib's own module under our name: `fastmp.reduction is multiprocessing.reduction`."""

import sys
from multiprocessing import reduction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.reduction import *  # noqa: F403

sys.modules[__name__] = reduction
