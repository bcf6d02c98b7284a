"""The stdlib's own module under our name: `fastmp.connection is multiprocessing.connection`."""

import sys
from multiprocessing import connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.connection import *  # noqa: F403

sys.modules[__name__] = connection
