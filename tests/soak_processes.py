"""A family of processes that start each other, and die at random: nobody is left behind.

    python soak_processes.py [--kills N] [--seed N] [--method fork|spawn|forkserver] [--module NAME]

A head starts children, and these grandchildren, daemonic and not, all the time. One of them is
killed again and again: a head, a child, a grandchild, the fork server. Then daemonic children of the
dead are gone at once, the others are told and end, everybody else goes on, nobody stays a zombie,
and at the end there is nothing left: no process, no name in /dev/shm. Prints one table; exit status
1 says that something did not hold.
"""

import argparse
import collections
import contextlib
import importlib
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import shared_memory
from multiprocessing.connection import wait

from children.common import look_at, process_table

MARK = "FASTMP_SOAK"  # what all have in their environment
HANG = 20.0  # seconds without a step, on a machine that other programs may load
GENERATIONS = 2  # below the head
CHILDREN = 3  # of each
PAUSE = 0.02  # seconds of a wait
# How a child may end: by itself, by a signal of its parent's or of the soak's; 255: nobody knows.
FINE = {0, 7, -signal.SIGTERM, -signal.SIGKILL, 255}
ROLES = ["head", "child", "grandchild", "server"]


class Home:
    """A folder where everybody leaves word.

    A file for each living process, `PID.GENERATION.daemon.PARENT`, touched at each of its steps.
    """

    def __init__(self, path):
        self.path = path

    def enter(self, generation, daemon, parent):
        self.mine = os.path.join(self.path, f"{os.getpid()}.{generation}.{int(daemon)}.{parent}")
        self.step()

    def step(self):
        with open(self.mine, "w"):
            pass

    def leave(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.mine)

    def complain(self, what):
        with open(os.path.join(self.path, "trouble"), "a") as file:
            file.write(f"{os.getpid()}: {what}\n")

    def troubles(self):
        with contextlib.suppress(FileNotFoundError), open(os.path.join(self.path, "trouble")) as file:
            return file.read().splitlines()
        return []

    def has_made(self, name):
        """Says that a name has been registered with the tracker. Who is killed before leaves it, as with
        the stdlib: it is made first.
        """
        with open(os.path.join(self.path, f"made {name}"), "w"):
            pass

    def made(self, name):
        return os.path.exists(os.path.join(self.path, f"made {name}"))

    def stop(self):
        with open(os.path.join(self.path, "stop"), "w"):
            pass

    def stopped(self):
        return os.path.exists(os.path.join(self.path, "stop"))

    def members(self):
        """Their processes, as they have written them down."""
        words = (name.split(".") for name in os.listdir(self.path) if name[0].isdigit())
        return [Member(*map(int, word)) for word in words]

    def forget(self, member):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.path, ".".join(map(str, member))))

    def last_step(self, member):
        with contextlib.suppress(FileNotFoundError):
            return os.stat(os.path.join(self.path, ".".join(map(str, member)))).st_mtime
        return None


Member = collections.namedtuple("Member", ["pid", "generation", "daemon", "parent"])


class Life:
    """What a member does: starts children, joins them, waits for them, ends them."""

    def __init__(self, mp, path, name, generation):
        self.mp, self.home, self.name, self.generation = mp, Home(path), name, generation
        self.random = random.Random()
        self.children = []

    def run(self):
        parent = self.mp.parent_process()
        me = self.mp.current_process()
        self.home.enter(self.generation, me.daemon, os.getppid() if parent is None else parent.pid)
        try:
            # A daemonic one only ends with its parent.
            lifetime = 1e9 if me.daemon or not self.generation else self.random.random()
            end = time.monotonic() + lifetime
            while not self.home.stopped() and time.monotonic() < end:
                if parent is not None and not me.daemon and not parent.is_alive():
                    break
                self.step(parent)
                self.home.step()
            self.finish()
        except BaseException as error:
            self.home.complain(f"{type(error).__name__}: {error}")
            raise
        finally:
            self.home.leave()

    def step(self, parent):
        self.children = [child for child in self.children if not self.has_ended(child)]
        can_start = self.generation < GENERATIONS and not self.mp.current_process().daemon
        if can_start and len(self.children) < CHILDREN:
            self.children.append(self.start())
        choice = self.random.random()
        child = self.random.choice(self.children) if self.children else None
        if choice < 0.3 and child:
            child.join(PAUSE)
        elif choice < 0.6:
            sentinels = [child.sentinel for child in self.children] + ([parent.sentinel] if parent else [])
            wait(sentinels, PAUSE) if sentinels else time.sleep(PAUSE)
        elif choice < 0.65 and child:
            self.random.choice([child.terminate, child.kill])()
        elif choice < 0.7:
            self.use_shared_memory()
        else:
            time.sleep(PAUSE * self.random.random())

    def start(self):
        daemon = self.random.random() < 0.5
        arguments = (self.mp, self.home.path, self.name, self.generation + 1)
        child = self.mp.Process(target=live, args=arguments, daemon=daemon)
        child.start()
        return child

    def has_ended(self, child):
        if child.is_alive():
            return False
        child.join()
        if child.exitcode not in FINE:
            self.home.complain(f"a child ended with {child.exitcode}")
        child.close()
        return True

    def use_shared_memory(self):
        memory = shared_memory.SharedMemory(f"{self.name}-{secrets.token_hex(4)}", create=True, size=100)
        self.home.has_made(memory.name)
        memory.buf[:5] = b"hello"
        memory.close()
        memory.unlink()

    def finish(self):
        for child in self.children:
            child.terminate() if child.daemon else None
            child.join(HANG)
            if child.exitcode is None:
                self.home.complain(f"a child that does not end: {child.pid}")


def live(mp, path, name, generation):
    # A fork server's child may have been asked to end before it begins.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Life(mp, path, name, generation).run()


def be_head(module, method, path, name):
    live(importlib.import_module(module).get_context(method), path, name, 0)


def wait_until(predicate, limit=HANG):
    """Returns the seconds that it took, or None."""
    begin = time.monotonic()
    while not predicate():
        if time.monotonic() - begin > limit:
            return None
        time.sleep(0.001)
    return time.monotonic() - begin


def is_gone(pid, began):
    """No such process, or another one with its number; a zombie is still somebody's to wait for."""
    seen = look_at(pid)
    return seen is None or seen.state in "ZX" or start_of(pid) != began


def start_of(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[19]
    return None


class Controller:
    def __init__(self, options):
        self.options, self.random = options, random.Random(options.seed)
        self.name = f"fastmp-soak-{secrets.token_hex(4)}"
        self.home = Home(tempfile.mkdtemp(prefix=self.name))
        self.kills, self.heads = collections.Counter(), 0
        self.daemons, self.told, self.trouble = [], [], []
        self.zombies = {}

    def run(self):
        self.raise_head()
        while sum(self.kills.values()) < self.options.kills and not self.trouble:
            time.sleep(self.random.expovariate(1 / self.options.pace))
            self.kill_one()
            self.look_around()
        self.home.stop()
        if self.head.wait(HANG) != 0:
            self.trouble.append(f"the head ended with {self.head.returncode}")
        self.expect_nobody()

    def raise_head(self):
        command = [sys.executable, os.path.abspath(__file__), "--head", self.home.path, "--name", self.name]
        command += ["--method", self.options.method, "--module", self.options.module]
        self.head = subprocess.Popen(command, env=os.environ | {MARK: self.name})
        self.heads += 1
        if wait_until(lambda: any(member.generation == 0 for member in self.home.members())) is None:
            self.trouble.append("a head that does not begin")

    def marked(self):
        """All processes of the family, whoever has started them."""
        found = []
        for process in process_table():
            with contextlib.suppress(OSError), open(f"/proc/{process.pid}/environ", "rb") as file:
                if f"{MARK}={self.name}".encode() in file.read():
                    found.append(process)
        return found

    def servers(self):
        known = {member.pid for member in self.home.members()}
        return [
            process.pid
            for process in self.marked()
            if process.pid not in known and "forkserver" in process.command() and process.parent == self.head.pid
        ]

    def kill_one(self):
        role = self.random.choices(ROLES, [1, 5, 5, 1])[0]
        if role == "server":
            victims = self.servers()
        else:
            victims = [member.pid for member in self.home.members() if member.generation == ROLES.index(role)]
        if not victims:
            return
        victim = self.random.choice(victims)
        # Stopped, it starts no more children: those it has are known.
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGSTOP)
            time.sleep(self.random.choice([0.0, PAUSE]))
            bereft = [(m, start_of(m.pid)) for m in self.home.members() if m.parent == victim]
            os.kill(victim, signal.SIGKILL)
            self.kills[role] += 1
            self.follow(role, victim, bereft)

    def follow(self, role, victim, bereft):
        """Until all that its death has to bring about has come."""
        for member, began in bereft:
            took = wait_until(lambda member=member, began=began: is_gone(member.pid, began))
            if took is None:
                kind = "daemonic" if member.daemon else "other"
                self.trouble.append(f"{kind} child {member.pid} lives on after a {role}, {victim}")
            else:
                (self.daemons if member.daemon else self.told).append(took)
            self.home.forget(member)
        for member in self.home.members():
            if member.pid == victim:
                self.home.forget(member)
        if role == "head":
            self.head.wait(HANG)
            self.expect_nobody()
            self.raise_head()

    def expect_nobody(self):
        self.reap()
        # Twice: one that is just being replaced by another program shows no environment.
        if wait_until(lambda: self.reap() or not self.marked() and not (time.sleep(0.2) or self.marked())) is None:
            left = [(process, process.command()) for process in self.marked()]
            self.trouble.append(f"left behind: {left}")
        names = [name for name in os.listdir("/dev/shm") if self.name in name]
        for name in names:
            os.unlink(f"/dev/shm/{name}")
        if names := [name for name in names if self.home.made(name)]:
            self.trouble.append(f"names left: {names}")
        for member in self.home.members():
            self.home.forget(member)

    def reap(self):
        """Orphans are this process's own."""
        with contextlib.suppress(ChildProcessError):
            for pid in {process.pid for process in process_table() if process.parent == os.getpid()}:
                if pid != self.head.pid:
                    os.waitpid(pid, os.WNOHANG)

    def look_around(self):
        self.reap()
        now = time.time()
        for member in self.home.members():
            last = self.home.last_step(member)
            if last is None:
                continue
            if (seen := look_at(member.pid)) is None or seen.state in "ZX":
                self.home.forget(member)
            elif now - last > HANG:
                self.trouble.append(f"{member} hangs")
        dead = {process.pid for process in process_table() if process.state == "Z" and self.is_ours(process)}
        self.zombies = {pid: self.zombies.get(pid, now) for pid in dead}
        self.trouble += [f"a zombie: {look_at(pid)}" for pid, since in self.zombies.items() if now - since > HANG]
        self.trouble += self.home.troubles()

    def is_ours(self, process):
        """A zombie has no environment any more: its parent is one of the family, or this process."""
        return process.parent in {member.pid for member in self.home.members()} | {*self.servers(), os.getpid()}

    def end(self):
        for process in self.marked():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        self.head.wait()
        self.reap()
        shutil.rmtree(self.home.path)

    def report(self):
        print(f"{sum(self.kills.values())} kills: {dict(self.kills)}; {self.heads} heads")
        for name, delays in [("daemonic children gone", self.daemons), ("others gone", self.told)]:
            ordered = sorted(1e3 * delay for delay in delays)
            if ordered:
                print(f"{len(ordered)} {name}: median {ordered[len(ordered) // 2]:.0f} ms, worst {ordered[-1]:.0f} ms")
        for trouble in self.trouble:
            print("TROUBLE:", trouble)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--method", choices=["fork", "spawn", "forkserver"], default="fork")
    parser.add_argument("--module", default="fastmp")
    parser.add_argument("--pace", type=float, default=0.1, help="seconds between kills, on average")
    parser.add_argument("--head", help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.head:
        return be_head(options.module, options.method, options.head, options.name)
    print(f"seed {options.seed}, {options.method}, {options.kills} kills", flush=True)
    import ctypes

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    controller = Controller(options)
    try:
        controller.run()
    finally:
        controller.end()
        controller.report()
    return bool(controller.trouble)


if __name__ == "__main__":
    sys.exit(main())
