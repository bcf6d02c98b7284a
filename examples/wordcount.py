"""Count the words of every Python file under a directory, with fastmp or with multiprocessing.

    python wordcount.py [--impl MODULE] [--method fork|spawn] [--workers N] [--kill] [DIR]

Paths go out on one queue and counts come back on another; a shared value counts finished files; a
pipe for each worker tells it to stop and brings its statistics. The implementations differ in the
import alone.

With --kill one worker gets a SIGKILL half-way. At most the one file in its hands may then be
missing: the program names it, and checks that the total is right to the word without it. Nothing
here works round a lost message or a lock that a dead worker holds: where those happen, the program
waits for ever.
"""

import argparse
import contextlib
import importlib
import os
import re
import signal
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path
from queue import Empty

WORD = re.compile(r"[^\W\d]\w*")
NOTHING = -1
POLL = 0.2  # seconds between two looks at who is alive, and at the word to stop


def count_words(path):
    return Counter(WORD.findall(Path(path).read_text("utf-8", errors="replace")))


def work(me, paths, results, finished, holding, control):
    """Count files until told to stop and nothing is left; then send this worker's statistics."""
    files = words = 0
    busy = 0.0
    while True:
        try:
            index, path = paths.get(timeout=POLL)
        except Empty:
            if control.poll():
                break
            continue
        holding[me] = index
        started = time.perf_counter()
        counts = count_words(path)
        busy += time.perf_counter() - started
        results.put((index, counts))
        holding[me] = NOTHING
        with finished.get_lock():
            finished.value += 1
        files += 1
        words += counts.total()
    control.send({"files": files, "words": words, "busy": busy})


class Job:
    """The workers, and what the parent shares with them."""

    def __init__(self, mp, files, workers):
        self.files = files
        self.paths, self.results = mp.Queue(), mp.Queue()
        self.finished = mp.Value("i", 0)
        self.holding = mp.Array("i", [NOTHING] * workers, lock=False)  # each worker writes its own slot only
        self.workers, self.controls = [], []
        for me in range(workers):
            mine, theirs = mp.Pipe()
            shared = (self.paths, self.results, self.finished, self.holding, theirs)
            worker = mp.Process(target=work, args=(me, *shared), daemon=True)
            worker.start()
            theirs.close()
            self.workers.append(worker)
            self.controls.append(mine)

    def killed(self):
        """The indices of the workers that died."""
        return [me for me, worker in enumerate(self.workers) if worker.exitcode not in (None, 0)]

    def run(self, show, kill):
        """Return the words counted and the indices of the files that they come from."""
        for job in enumerate(self.files):
            self.paths.put(job)
        total, arrived, stopped = Counter(), set(), False
        while len(arrived) < len(self.files):
            # Each dead worker can have taken one file with it. The others leave once the queue is
            # empty, and by then they have delivered all that they took.
            if not stopped and len(arrived) >= len(self.files) - len(self.killed()):
                stopped = self.stop()
            alive = any(worker.is_alive() for worker in self.workers)
            try:
                index, counts = self.results.get(timeout=POLL)
            except Empty:
                if alive:
                    continue
                break
            if index in arrived:
                sys.exit(f"FAILED: the count of {self.files[index]} arrived twice")
            arrived.add(index)
            total.update(counts)
            show(self.finished.value)
            if kill and len(arrived) == len(self.files) // 2:
                os.kill(self.workers[0].pid, signal.SIGKILL)
        if not stopped:
            self.stop()
        return total, arrived

    def stop(self):
        for control in self.controls:
            with contextlib.suppress(BrokenPipeError):  # a dead worker's
                control.send("stop")
        return True

    def statistics(self):
        """One report a worker, None for one that died."""
        reports = []
        for worker, control in zip(self.workers, self.controls, strict=True):
            try:
                reports.append(control.recv())
            except (EOFError, ConnectionResetError):
                reports.append(None)
            worker.join()
        return reports


def check(job, total, arrived):
    """Compare with a count in this process alone; return the complaints."""
    complaints = []
    missing = set(range(len(job.files))) - arrived
    killed = job.killed()
    held = {job.holding[me] for me in killed} - {NOTHING}
    for index in missing:
        print(f"lost with the killed worker: {job.files[index]}")
    if len(missing) > len(killed):
        complaints.append(f"{len(missing)} files are missing, {len(killed)} workers were killed")
    # A worker killed between taking a path and announcing it holds a file that nobody can name but
    # by its absence.
    if len(held) == len(killed) and not missing <= held:
        complaints.append("a file is missing that was in no killed worker's hands")
    # A worker killed between its put and its count has delivered one file more than it counted.
    if not 0 <= len(arrived) - job.finished.value <= len(killed):
        complaints.append(f"{len(arrived)} files arrived, {job.finished.value} were counted as finished")

    began = time.perf_counter()
    expected = Counter()
    for path in job.files:
        expected.update(count_words(path))
    print(f"one process alone: {time.perf_counter() - began:.2f} s, {expected.total():,} words")
    for index in missing:
        expected.subtract(count_words(job.files[index]))
    if total != expected:
        complaints.append(f"{total.total():,} words counted, {expected.total():,} expected")
    return complaints


@contextlib.contextmanager
def progress_bar(count):
    """Yield a function that takes the number of files finished so far."""
    from rich.progress import MofNCompleteColumn, Progress  # not for spawned workers to load

    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        task = progress.add_task("files", total=count)
        yield lambda done: progress.update(task, completed=done)


def source_files(directory):
    if directory:
        return sorted(str(path) for path in Path(directory).rglob("*.py"))
    library = Path(sysconfig.get_path("stdlib"))
    foreign = {"site-packages", "dist-packages"}
    return sorted(str(path) for path in library.rglob("*.py") if not foreign.intersection(path.parts))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--impl", default="fastmp", choices=["fastmp", "multiprocessing"])
    parser.add_argument("--method", default="fork", choices=["fork", "spawn"])
    parser.add_argument("--workers", type=int, default=max(2, os.cpu_count() or 1), metavar="N")
    parser.add_argument("--kill", action="store_true", help="SIGKILL one worker half-way")
    parser.add_argument("directory", nargs="?", metavar="DIR", help="default: the standard library")
    options = parser.parse_args()
    files = source_files(options.directory)
    if not files:
        parser.error("no *.py files there")

    mp = importlib.import_module(options.impl).get_context(options.method)
    began = time.perf_counter()
    job = Job(mp, files, options.workers)
    with progress_bar(len(files)) as show:
        total, arrived = job.run(show, options.kill)
        elapsed = time.perf_counter() - began
        reports = job.statistics()
        show(job.finished.value)

    for word, count in total.most_common(10):
        print(f"{count:10,}  {word}")
    for me, report in enumerate(reports):
        told = "{files} files, {words:,} words, {busy:.2f} s busy".format(**report) if report else "killed"
        print(f"worker {me}: {told}")
    print(f"{options.impl}, {options.method}: {elapsed:.2f} s, {len(arrived)} files, {total.total():,} words")
    complaints = check(job, total, arrived)
    for complaint in complaints:
        print("FAILED:", complaint)
    if not complaints:
        print("the total is right" + (" without the lost file" if len(arrived) < len(files) else ""))
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
