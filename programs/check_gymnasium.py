"""gymnasium's tests of its vector environments are in no package: what AsyncVectorEnv promises."""

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

METHODS = "fork", "spawn", "forkserver"
KINDS = "CartPole-v1", "MountainCarContinuous-v0", "Acrobot-v1"


def make(name, count):
    return [functools.partial(gymnasium.make, name)] * count


class Broken(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        raise ValueError("broken")


class Dicts(gymnasium.Env):
    observation_space = gymnasium.spaces.Dict(
        image=gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8), place=gymnasium.spaces.Discrete(9)
    )
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return self.look(), {}

    def look(self):
        return {"image": np.full((64, 64, 3), self.count, np.uint8), "place": self.count}

    def step(self, action):
        self.count += 1
        return self.look(), 1.0, False, False, {"count": self.count}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", KINDS)
def test_as_in_one_process(name, method, shared):
    parallel = AsyncVectorEnv(make(name, 3), shared_memory=shared, context=method)
    alone = SyncVectorEnv(make(name, 3))
    try:
        for ours, theirs in zip(parallel.reset(seed=1)[0], alone.reset(seed=1)[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        alone.action_space.seed(2)
        for _ in range(50):
            actions = alone.action_space.sample()
            for ours, theirs in zip(parallel.step(actions)[:4], alone.step(actions)[:4], strict=True):
                np.testing.assert_array_equal(ours, theirs)
    finally:
        parallel.close()
        alone.close()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_dicts(method, shared):
    env = AsyncVectorEnv([Dicts] * 2, shared_memory=shared, context=method)
    env.reset()
    for at in range(1, 6):
        observations, _, _, _, infos = env.step(np.array([0, 1]))
        assert observations["image"].shape == (2, 64, 64, 3)
        assert (observations["image"] == at).all()
        assert list(infos["count"]) == [at, at]
    env.close()


@pytest.mark.parametrize("method", METHODS)
def test_errors_come_up(method):
    env = AsyncVectorEnv([Broken] * 2, context=method)
    env.reset()
    with pytest.raises(ValueError, match="broken"):
        env.step(np.array([0, 0]))
    env.close(terminate=True)


@pytest.mark.parametrize("method", METHODS)
def test_calls_and_attributes(method):
    env = AsyncVectorEnv(make("CartPole-v1", 2), context=method)
    env.reset(seed=3)
    assert env.get_attr("gravity") == (9.8, 9.8)
    env.set_attr("gravity", [1.0, 2.0])
    assert env.get_attr("gravity") == (1.0, 2.0)
    env.close()
