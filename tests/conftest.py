from pathlib import Path

import pytest

from dm2.trainer import forget_programs

SMALL = {
    "num_envs": 8,
    "rollout_steps": 16,
    "eval_every": 256,
    "eval_episodes": 4,
    "checkpoint_every": 256,
}


@pytest.fixture(autouse=True, scope="module")
def bounded_memory_maps():
    """Compiled programs go before they exhaust a process's memory maps (65530 on Linux)."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        forget_programs()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A few iterations of IPPO on a short battle: the run that other tests look at."""
    from dm2 import PPO, Config, train

    config = Config(
        "ippo",
        "smax/3m?limit=12",
        steps=512,
        checkpoint_steps=(200,),
        ppo=PPO(hidden=8, epochs=1, minibatches=2),
        **SMALL,
    )
    return train(config, tmp_path_factory.mktemp("runs") / "ippo", quiet=True)


@pytest.fixture(scope="session")
def small_demos(small_run, tmp_path_factory):
    """Demonstrations of that run's team."""
    from dm2 import record

    path = tmp_path_factory.mktemp("demos") / "team.safetensors"
    record(small_run, episodes=6).save(path)
    return path
