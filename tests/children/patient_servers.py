"""Preloaded by a fork server whose spare waits for as long as a test takes."""

from fastmp import forkserver_main

forkserver_main._SPARE_FOR = 10**6
