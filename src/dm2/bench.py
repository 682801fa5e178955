"""How fast this machine trains: simulator alone, IPPO, DM², and what the processor could do."""

import dataclasses
import resource
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dm2.agent.imitation import Expert
from dm2.config import Config
from dm2.envs import Environment, make
from dm2.errors import InputError
from dm2.rollout import collect, random_steps
from dm2.trainer import Trainer

__all__ = ["measure"]

_BEGUN = time.monotonic()
_SIMULATED_ENVS, _SIMULATED_STEPS = 512, 64
_MATRIX = 2048
_EXPERT_STATES = 20_000


def _best_seconds(function: Any, repeats: int) -> float:
    """The shortest of some runs: the least disturbed by whatever else the machine does."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - began)
    return min(times)


def _matmul_gflops(repeats: int) -> float:
    product = jax.jit(lambda x: x @ x)
    x = jnp.ones((_MATRIX, _MATRIX))
    jax.block_until_ready(product(x))
    return 2 * _MATRIX**3 / _best_seconds(lambda: product(x), repeats) / 1e9


def _simulator(env: Environment, repeats: int) -> float:
    """Environment steps a second with random legal actions."""
    run = jax.jit(lambda key: random_steps(env, key, _SIMULATED_ENVS, _SIMULATED_STEPS))
    key = jax.random.PRNGKey(0)
    jax.block_until_ready(run(key))
    steps = _SIMULATED_ENVS * _SIMULATED_STEPS
    return steps / _best_seconds(lambda: run(key), repeats)


def _training(trainer: Trainer, repeats: int) -> float:
    """Environment steps a second of whole iterations."""
    experts = _made_up_experts(trainer.env) if trainer.config.imitates else None
    seed = jnp.uint32(0)
    state = trainer.init(seed)

    def iterate():
        nonlocal state
        state, metrics = trainer.iterate(state, seed, experts)
        return metrics

    jax.block_until_ready(iterate())
    return trainer.config.iteration_steps / _best_seconds(iterate, repeats)


def _made_up_experts(env: Environment) -> Expert:
    """Random states of the right shape: speed does not depend on what they say."""
    spec = env.spec
    shape = (spec.num_agents, _EXPERT_STATES, spec.observation_size)
    states = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    count = jnp.full(spec.num_agents, _EXPERT_STATES, jnp.int32)
    return Expert(jnp.asarray(states), count, jnp.zeros(spec.num_agents))


def _update_flops(config: Config, env: Environment) -> float:
    """Multiply-adds of one IPPO update's matrix products, times two. A backward pass costs two
    forward passes; actor and critic differ in their heads only."""
    h, o, a = config.ppo.hidden, env.spec.observation_size, env.spec.num_actions
    per_net = o * h + h * h + 2 * h * 3 * h
    forward = 2 * (2 * per_net + h * (a + 1))
    samples = config.iteration_steps * env.spec.num_agents * config.ppo.epochs
    return 3.0 * forward * samples


def measure(
    env_name: str, iterations: int, num_envs: int = 128, rollout_steps: int = 128
) -> dict[str, Any]:
    """All figures in one process, each the best of `iterations` after one warm-up.

    `first_update_s` counts from the import of this module to the end of the first IPPO
    iteration, compilation included; `peak_rss_mib` is the most memory that the process held while
    it trained, IPPO first, then DM². Raises InputError for counts that are not above 0 and for an
    unknown environment.
    """
    if iterations < 1:
        raise InputError(f"iterations = {iterations}: must be a whole number above 0")
    env = make(env_name)
    settings = Config("ippo", env_name, num_envs=num_envs, rollout_steps=rollout_steps)
    ippo = Trainer(settings, env)
    state = ippo.init(jnp.uint32(0))
    jax.block_until_ready(ippo.iterate(state, jnp.uint32(0), None))
    first = time.monotonic() - _BEGUN
    ippo_rate = _training(ippo, iterations)
    imitating = dataclasses.replace(settings, method="dm2", demos="made up")
    dm2_rate = _training(Trainer(imitating, env), iterations)
    # Linux counts in KiB, macOS in bytes.
    unit = 2**10 if sys.platform == "darwin" else 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit / 2**10
    update = _update_seconds(ippo, iterations)
    return {
        "environment": env.spec.name,
        "simulator_steps_per_s": _simulator(env, iterations),
        "ippo_steps_per_s": ippo_rate,
        "dm2_steps_per_s": dm2_rate,
        "first_update_s": first,
        "update_gflops": _update_flops(ippo.config, env) / update / 1e9,
        "matmul_peak_gflops": _matmul_gflops(iterations),
        "peak_rss_mib": peak,
    }


def _update_seconds(trainer: Trainer, repeats: int) -> float:
    """Time of the learning half of an iteration."""
    seed = jnp.uint32(0)
    state = trainer.init(seed)
    _, trajectory, _ = jax.jit(
        lambda state, key: collect(
            trainer.env,
            trainer.team,
            state.agents,
            state.rollout,
            key,
            trainer.config.rollout_steps,
        )
    )(state, jax.random.PRNGKey(0))
    update = jax.jit(trainer.team.update)
    before = state.rollout.carry
    jax.block_until_ready(update(state.agents, trajectory, before, None))
    return _best_seconds(lambda: update(state.agents, trajectory, before, None), repeats)
