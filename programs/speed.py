"""Times one thing that a program does; prints `seconds N`. Under `python -m fastmp run` it is on fastmp.

    python speed.py NAME

What is timed is the work, of which the packages' own start is no part: one round goes before.
"""

import sys
import time


def identity(x):
    return x


def _timed(work):
    work()
    begin = time.perf_counter()
    work()
    print("seconds", time.perf_counter() - begin)


def pebble_fork():
    import multiprocessing

    import numpy
    import pebble

    array = numpy.zeros(125_000)
    with pebble.ProcessPool(2, context=multiprocessing.get_context("fork")) as pool:
        _timed(lambda: [each.result() for each in [pool.schedule(identity, args=[array]) for _ in range(60)]])


def mpire_map():
    import numpy
    from mpire import WorkerPool

    arrays = [numpy.zeros(125_000) for _ in range(60)]
    with WorkerPool(2, start_method="fork", keep_alive=True) as pool:
        _timed(lambda: pool.map(identity, [(each,) for each in arrays], chunk_size=1))


def joblib_multiprocessing():
    import joblib
    import numpy

    arrays = [numpy.zeros(62_500) for _ in range(60)]
    with joblib.parallel_config("multiprocessing", n_jobs=2), joblib.Parallel(batch_size=1) as parallel:
        _timed(lambda: parallel(joblib.delayed(identity)(each) for each in arrays))


def loky_executor():
    import loky

    executor = loky.get_reusable_executor(2)
    _timed(lambda: list(executor.map(identity, range(2000))))


def gymnasium_async():
    import functools

    import gymnasium
    import numpy

    kind = functools.partial(gymnasium.make, "CartPole-v1")
    env = gymnasium.vector.AsyncVectorEnv([kind] * 2, context="fork")
    env.reset(seed=1)
    actions = numpy.array([0, 1])

    def steps():
        for _ in range(2000):
            env.step(actions)

    _timed(steps)
    env.close()


def subproc_vec_env():
    import gymnasium
    import numpy
    from stable_baselines3.common.vec_env import SubprocVecEnv

    env = SubprocVecEnv([lambda: gymnasium.make("CartPole-v1")] * 2, start_method="fork")
    env.reset()
    actions = numpy.array([0, 1])

    def steps():
        for _ in range(2000):
            env.step(actions)

    _timed(steps)
    env.close()


def torch_loader():
    import numpy
    from torch.utils.data import DataLoader

    class Arrays:
        def __len__(self):
            return 200

        def __getitem__(self, at):
            return numpy.zeros(125_000)

    loader = DataLoader(
        Arrays(),
        batch_size=None,
        collate_fn=identity,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    _timed(lambda: [None for _ in loader])


if __name__ == "__main__":
    globals()[sys.argv[1]]()
