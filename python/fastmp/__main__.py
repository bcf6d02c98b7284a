"""`python -m fastmp`: see `command`."""

import sys

from fastmp.command import main

# The program that it may run has this very module for its own.
main(sys.argv[1:])
