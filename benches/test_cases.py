"""The cases under pytest-benchmark, which keeps and compares runs.

For some of them: `pytest benches -k 'queue and fastmp'`.
"""

import pytest
import runner
from cases import CASES


class CaseClock:
    """A clock that stands still but for what a case has measured inside its own process."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def run(self, case, module):
        self.now += runner.run(case, module)


CLOCK = CaseClock()
PAIRS = [
    pytest.param(case.name, module, marks=pytest.mark.benchmark(group=case.title, timer=CLOCK))
    for case in CASES.values()
    if case.most is None
    for module in ["fastmp", "multiprocessing"]
]


@pytest.mark.parametrize(("case", "module"), PAIRS)
def test_time(benchmark, case, module):
    benchmark.pedantic(CLOCK.run, (case, module), rounds=3)


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.most is not None], ids=lambda case: case.name)
def test_most(case):
    assert runner.run(case.name, "fastmp") <= case.most
