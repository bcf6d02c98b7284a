"""Have N processes take turns at one lock, fastmp's and the stdlib's; print how they share it.

    python fairness.py [--rounds N] [--seconds S] [--only PATTERN]

A process's share is its turns over the mean of all: 1 is even, 0 is none. The table has medians
over the rounds; "least" is the smallest share of a process, "worst" the same in the worst round.
Required: a least of 0.5 for two or four processes and of 0.1 for more, and no fewer turns than
multiprocessing's.
"""

import argparse
import re
import statistics

import runner
from cases import SHARING
from compare import MODULES, describe_machine, print_lines, show_progress

LEAST = {2: 0.5, 4: 0.5}
LEAST_OF_MANY = 0.1


def measure(case, rounds, seconds):
    """Return by module what each round gave, as (turns a second, smallest share).

    A string says what went wrong.
    """
    found = {module: [] for module in MODULES}
    for number in range(1, rounds + 1):
        # Who goes first changes, as in compare.py.
        for module in MODULES if number % 2 else reversed(MODULES):
            show_progress(f"{case}: round {number}, {module}")
            try:
                turns = runner.run(case, module, seconds, limit=30 + 10 * seconds)
                found[module].append((sum(turns) / seconds, min(turns) * len(turns) / max(sum(turns), 1)))
            except runner.CaseFailed as trouble:
                return str(trouble)
    show_progress("")
    return found


def cells(case, found):
    if isinstance(found, str):
        return [case, *[""] * 7, found]
    rates, shares = ({module: [pair[at] for pair in found[module]] for module in MODULES} for at in (0, 1))
    ratio = statistics.median(ours / theirs for ours, theirs in zip(*rates.values(), strict=True))
    least = {module: statistics.median(shares[module]) for module in MODULES}
    required = LEAST.get(int(case.rpartition(", ")[2]), LEAST_OF_MANY)
    troubles = ["STARVED"] * (round(least["fastmp"], 2) < required) + ["SLOWER"] * (round(ratio, 2) < 1)
    return [
        case,
        *[f"{statistics.median(rates[module]):,.0f}" for module in MODULES],
        f"{ratio:.2f}x",
        *[f"{share:.2f}" for module in MODULES for share in (least[module], min(shares[module]))],
        " ".join(troubles),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="for one measurement")
    parser.add_argument("--only", default="", metavar="PATTERN", help="a regular expression for the cases' names")
    options = parser.parse_args()
    cases = [case for case in SHARING if re.search(options.only, case)]
    if not cases:
        parser.error("no such case: " + "; ".join(SHARING))
    print(", ".join(f"{key} {value}" for key, value in describe_machine().items()))
    heading = ["processes on one lock", "fastmp/s", "mp/s", "ratio", "least", "worst", "mp least", "worst", ""]
    lines = [cells(case, measure(case, options.rounds, options.seconds)) for case in cases]
    print(f"{options.rounds} rounds of {options.seconds:g} s, load {describe_machine()['load']} at the end\n")
    print_lines(heading, lines)


if __name__ == "__main__":
    main()
