"""The stdlib's own module under our name: `fastmp.dummy is multiprocessing.dummy`."""

import sys
from multiprocessing import dummy
from multiprocessing.dummy import connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.dummy import *  # noqa: F403

sys.modules[__name__] = dummy
# A submodule, which would else be loaded a second time from the same file.
sys.modules[f"{__name__}.connection"] = connection
