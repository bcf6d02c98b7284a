"""The programs, where their tests are, and what is known to differ on fastmp."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Program:
    """A package and a part of its tests, or checks of ours where it publishes none."""

    name: str
    package: str  # the distribution, of which the table names the version
    suite: tuple[str, ...] = ()  # what pytest is given, in the directory of the sdist
    checks: str = ""  # or a file of ours
    installed: str = ""  # or the directory, in the package as installed, that has the tests
    speed: str = ""  # the function in `speed.py` that measures it
    what: str = ""  # what that does, for the table
    large: bool = False  # only with --large: gigabytes to fetch
    # Tests that fail on fastmp and not on the stdlib, by parts of their names, and why that is right.
    differs: dict[str, str] = field(default_factory=dict)


_RECOVERS = "expects that a worker which dies holding the pool's lock breaks the pool: here the lock is recovered"

PROGRAMS = [
    Program(
        "pebble, fork",
        "pebble",
        suite=("test/test_process_pool_fork.py", "test/test_concurrent_process_fork.py"),
        speed="pebble_fork",
        what="1 MB arrays through a pool",
        differs={"TestProcessPoolDeadlockOnNewFutures": _RECOVERS, "TestProcessPoolDeadlockOnResult": _RECOVERS},
    ),
    Program(
        "pebble, spawn",
        "pebble",
        suite=("test/test_process_pool_spawn.py", "test/test_concurrent_process_spawn.py"),
        differs={"TestProcessPoolDeadlockOnNewFutures": _RECOVERS, "TestProcessPoolDeadlockOnResult": _RECOVERS},
    ),
    Program("mpire (checks of ours)", "mpire", checks="check_mpire.py", speed="mpire_map", what="1 MB arrays, `map`"),
    Program(
        "joblib, multiprocessing backend",
        "joblib",
        suite=(
            "joblib/test/test_parallel.py",
            "joblib/test/test_memmapping.py",
            "-k",
            "multiprocessing or memmap or pool",
        ),
        installed="joblib",
        speed="joblib_multiprocessing",
        what="500 KB arrays",
    ),
    Program(
        "loky",
        "loky",
        suite=("tests/test_synchronize.py", "tests/test_loky_backend.py"),
        speed="loky_executor",
        what="`map` of small tasks",
    ),
    *(
        Program(
            f"multiprocess, {method}",
            "multiprocess",
            suite=(f"multiprocess/tests/test_multiprocessing_{method}",),
            installed="multiprocess",
        )
        for method in ("fork", "spawn", "forkserver")
    ),
    Program("multiprocess beside fastmp (checks of ours)", "multiprocess", checks="check_multiprocess.py"),
    Program(
        "gymnasium, AsyncVectorEnv (checks of ours)",
        "gymnasium",
        checks="check_gymnasium.py",
        speed="gymnasium_async",
        what="steps of CartPole",
    ),
    Program("gunicorn --preload (checks of ours)", "gunicorn", checks="check_gunicorn.py"),
    Program(
        "uvicorn --workers",
        "uvicorn",
        suite=("tests/supervisors/test_multiprocess.py", str(HERE / "check_uvicorn.py")),
    ),
    Program(
        "stable-baselines3, SubprocVecEnv",
        "stable-baselines3",
        suite=("tests/test_vec_envs.py",),
        speed="subproc_vec_env",
        what="steps of CartPole",
        large=True,
    ),
    Program(
        "torch, DataLoader (checks of ours)",
        "torch",
        checks="check_torch.py",
        speed="torch_loader",
        what="1 MB numpy samples",
        large=True,
    ),
]
