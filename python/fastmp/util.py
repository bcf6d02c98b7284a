"""The stdlib's own module under our name: `fastmp.util is multiprocessing.util`."""

import sys
from multiprocessing import util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.util import *  # noqa: F403

sys.modules[__name__] = util
