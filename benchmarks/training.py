"""Training beside a peer: `python benchmarks/training.py [--rounds N] [--json]`.

Environment steps a second on `5m_vs_6m`, 128 environments x 128 steps, 4 epochs x 4 minibatches,
by turns, each in a process of its own, as its users run it:

- dm2's IPPO and DM²: an actor and a critic of 64 units for every agent;
- JaxMARL's recurrent IPPO for SMAX in its published configuration: one network of 128 units shared
  by all agents, in JaxMARL's own environment. Its training script is not part of its package; this
  is our re-creation of what it computes (`baselines/IPPO/ippo_rnn_smax.py` of JaxMARL 0.2), from
  JaxMARL's environment and flax's GRU cell, for speed alone.

dm2 leaves out the steps of dead agents, so its time depends on how long agents live. It learns at
a rate of next to nothing here, and so plays as agents do at first, in all rounds.

The products of matrices are counted for each, as if nobody died, and the peak of this machine is
printed beside them.
"""

import argparse
import functools
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

import dm2
from dm2.envs.smax.parity import Reference
from winning import Learns, contest

SCENARIO, ENVS, STEPS, EPOCHS, MINIBATCHES, UNITS = "5m_vs_6m", 128, 128, 4, 4, 128


class Cell(nn.Module):
    """A GRU over time that forgets where an episode begins."""

    @functools.partial(
        nn.scan, variable_broadcast="params", in_axes=0, out_axes=0, split_rngs={"params": False}
    )
    @nn.compact
    def __call__(self, hidden: Array, xs: tuple[Array, Array]) -> tuple[Array, Array]:
        """One step of every row."""
        x, starts = xs
        hidden = jnp.where(starts[:, None], 0.0, hidden)
        return nn.GRUCell(features=hidden.shape[-1])(hidden, x)


class ActorCritic(nn.Module):
    """A dense layer and a GRU, then a dense layer and a head each for policy and value."""

    actions: int

    @nn.compact
    def __call__(self, hidden: Array, xs: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        """Next memory, logits `[T, B, A]` and values `[T, B]`."""
        observations, starts, legal = xs
        dense = functools.partial(nn.Dense, kernel_init=nn.initializers.orthogonal(2**0.5))
        hidden, x = Cell()(hidden, (nn.relu(dense(UNITS)(observations)), starts))
        logits = nn.Dense(self.actions)(nn.relu(dense(UNITS)(x)))
        values = nn.Dense(1)(nn.relu(dense(UNITS)(x)))
        return hidden, jnp.where(legal, logits, -1e10), values[..., 0]


class Row(NamedTuple):
    """A step of all actors, agents of all environments in one axis."""

    seen: tuple[Array, Array, Array]
    action: Array
    log_prob: Array
    value: Array
    reward: Array
    done: Array


class Peer:
    """Shared-parameter recurrent IPPO: one iteration of collecting and learning."""

    def __init__(self) -> None:
        self.env = Reference(SCENARIO, lethal_walls=True).env
        self.names = list(self.env.agents)
        self.actors = ENVS * len(self.names)
        self.actions = self.env.action_space(self.names[0]).n
        self.size = self.env.observation_space(self.names[0]).shape[0]
        self.network = ActorCritic(self.actions)
        # Its type allows for changed variables beside what the network returns.
        self.forward: Any = self.network.apply
        self.optimiser = optax.chain(optax.clip_by_global_norm(0.25), optax.adam(4e-3, eps=1e-5))
        self.iterate = jax.jit(self._iterate, donate_argnums=0)

    def _stack(self, by_agent: dict[str, Array]) -> Array:
        stacked = jnp.stack([by_agent[name] for name in self.names])
        return stacked.reshape(self.actors, *stacked.shape[2:])

    def init(self) -> Any:
        """Parameters, optimiser, environments, memories."""
        keys = jax.random.split(jax.random.PRNGKey(0), ENVS)
        seen, state = jax.jit(jax.vmap(self.env.reset))(keys)
        starts, hidden = jnp.ones(self.actors, bool), jnp.zeros((self.actors, UNITS))
        legal = jnp.ones((1, self.actors, self.actions), bool)
        example = (self._stack(seen)[None], starts[None], legal)
        params = self.network.init(jax.random.PRNGKey(1), hidden, example)
        return params, self.optimiser.init(params), (state, self._stack(seen), starts, hidden)

    def _collect(self, params: Any, world: Any, key: Array) -> tuple[Any, Row]:
        def step(world: Any, key: Array) -> tuple[Any, Row]:
            state, seen, starts, hidden = world
            act_key, env_key = jax.random.split(key)
            legal = self._stack(jax.vmap(self.env.get_avail_actions)(state)).astype(bool)
            inputs = (seen, starts, legal)
            hidden, logits, value = self.forward(
                params, hidden, jax.tree.map(lambda x: x[None], inputs)
            )
            action = jax.random.categorical(act_key, logits[0])
            log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits[0]), action[:, None], -1)
            orders = action.reshape(len(self.names), ENVS)
            following, state, reward, done, _ = jax.vmap(self.env.step)(
                jax.random.split(env_key, ENVS), state, dict(zip(self.names, orders, strict=True))
            )
            done = jnp.tile(done["__all__"], len(self.names))
            row = Row(inputs, action, log_prob[:, 0], value[0], self._stack(reward), done)
            return (state, self._stack(following), done, hidden), row

        return jax.lax.scan(step, world, jax.random.split(key, STEPS))

    def _iterate(self, agent: Any, key: Array) -> tuple[Any, Array]:
        params, opt, world = agent
        memory = world[3]
        collect_key, *epoch_keys = jax.random.split(key, 1 + EPOCHS)
        world, rows = self._collect(params, world, collect_key)

        def advantage(following: tuple[Array, Array], row: Row) -> tuple[Any, Array]:
            gain, value = following
            going = 1.0 - row.done
            gain = row.reward + 0.99 * value * going - row.value + 0.99 * 0.95 * going * gain
            return (gain, row.value), gain

        zeros = jnp.zeros(self.actors)
        gains = jax.lax.scan(advantage, (zeros, rows.value[-1]), rows, reverse=True)[1]
        data = (rows, gains, gains + rows.value)

        def loss(params: Any, memory: Array, batch: Any) -> Array:
            row, gain, target = batch
            _, logits, value = self.forward(params, memory, row.seen)
            log_probs = jax.nn.log_softmax(logits)
            chosen = jnp.take_along_axis(log_probs, row.action[..., None], -1)[..., 0]
            ratio = jnp.exp(chosen - row.log_prob)
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            surrogate = jnp.minimum(ratio * gain, jnp.clip(ratio, 0.95, 1.05) * gain).mean()
            entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, -1).mean()
            near = row.value + jnp.clip(value - row.value, -0.05, 0.05)
            errors = jnp.maximum(jnp.square(value - target), jnp.square(near - target))
            return 0.25 * errors.mean() - surrogate - 0.01 * entropy

        def minibatch(learner: Any, columns: Array) -> tuple[Any, Array]:
            params, opt = learner
            batch = jax.tree.map(lambda x: jnp.take(x, columns, axis=1), data)
            error, grads = jax.value_and_grad(loss)(params, memory[columns], batch)
            updates, opt = self.optimiser.update(grads, opt, params)
            return (optax.apply_updates(params, updates), opt), error

        def epoch(learner: Any, key: Array) -> tuple[Any, Array]:
            order = jax.random.permutation(key, self.actors).reshape(MINIBATCHES, -1)
            return jax.lax.scan(minibatch, learner, order)

        (params, opt), errors = jax.lax.scan(epoch, (params, opt), jnp.stack(epoch_keys))
        return (params, opt, world), errors.mean()

    def update_flops(self) -> float:
        """Products of one update: dense, GRU (six), two dense, two heads, forward and twice back
        (but for the gradient of the observations)."""
        u = UNITS
        per_row = self.size * u + 8 * u * u + u * (self.actions + 1)
        return 2.0 * (3 * per_row - self.size * u) * self.actors * STEPS * EPOCHS


class Work(NamedTuple):
    """What is timed."""

    iterate: Callable[[], Any]
    flops: float
    """Operations of the products of its update."""
    steps: int = ENVS * STEPS
    """Environment steps of an iteration."""


Maker = Callable[[], Work]


def ours(name: str, scenario: str = SCENARIO, envs: int = ENVS, **changes: Any) -> Work:
    """An iteration of dm2. `changes`: settings that differ from the method's own, by group; it
    learns next to nothing, unless a group says otherwise."""
    dm2.set_up_process()  # which is not for the peer
    from dm2.bench import made_up_demonstrations
    from dm2.config import ProgramSettings
    from dm2.methods import settings_class
    from dm2.run.programs import Programs

    method = settings_class(name).from_dict(changes or {"ppo": {"learning_rate": 1e-12}})
    settings = ProgramSettings(method, f"smax/{scenario}", envs, STEPS)
    programs = Programs(settings)
    experts = method.experts(made_up_demonstrations(programs.env)) if method.imitates else None
    state = programs.init(jnp.uint32(0))

    def iterate() -> Any:
        nonlocal state
        state, metrics = programs.iterate(state, jnp.uint32(0), experts)
        return state, metrics

    steps = settings.iteration_steps
    return Work(iterate, method.update_flops(programs.env.spec, steps), steps)


def theirs(make: Callable[[], Any], steps: int = ENVS * STEPS) -> Work:
    """An iteration of a peer, `make()`."""
    peer = make()
    agent, key = peer.init(), jax.random.PRNGKey(2)

    def iterate() -> Any:
        nonlocal agent
        agent, error = peer.iterate(agent, key)
        return agent, error

    return Work(iterate, peer.update_flops(), steps)


MAKERS: dict[str, Maker] = {
    "dm2 IPPO": functools.partial(ours, "ippo"),
    "dm2 DM²": functools.partial(ours, "dm2"),
    "JaxMARL IPPO (re-created)": functools.partial(theirs, Peer),
}
PEER = "JaxMARL IPPO (re-created)"


def seconds(function: Callable[[], Any]) -> float:
    """Wall-clock time of one call, until its results are there."""
    began = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - began


def serve(make: Maker, line: Connection) -> None:
    """A process of one program: compile, report, then one timed iteration for each request."""
    jax.config.update("jax_enable_compilation_cache", False)  # compilation is timed
    began = time.perf_counter()
    iterate, flops, steps = make()
    jax.block_until_ready(iterate())
    line.send((time.perf_counter() - began, flops, steps))
    # The second may compile again: what comes out of the peer differs in weak types from what went
    # in. Its own script, one program for all iterations, compiles once.
    jax.block_until_ready(iterate())
    while line.recv():
        line.send(seconds(iterate))


def peak_gflops(repeats: int) -> float:
    """The best of some large products of matrices."""
    from dm2.bench import matmul_gflops

    return matmul_gflops(repeats)


def race(rounds: int, makers: dict[str, Maker], peer: str) -> list[dict[str, Any]]:
    """All programs by turns; medians and ranges over the rounds, and ratios to the peer's speed."""
    context = multiprocessing.get_context("spawn")
    lines: dict[str, Any] = {}  # connections, whose class depends on the platform
    first: dict[str, tuple[float, float, int]] = {}
    for name, make in makers.items():
        lines[name], far = context.Pipe()
        context.Process(target=serve, args=(make, far), daemon=True).start()
        first[name] = lines[name].recv()
    times: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(rounds):
        for name, line in lines.items():
            line.send(True)
            times[name].append(line.recv())
    for line in lines.values():
        line.send(False)
    rows = []
    for name, taken in times.items():
        compiled, flops, steps = first[name]
        rates = sorted(steps / t for t in taken)
        theirs = [first[peer][2] / t for t in times[peer]]
        ratios = sorted(steps / t / b for t, b in zip(taken, theirs, strict=True))
        rows.append(
            {
                "program": name,
                "steps_per_s": statistics.median(rates),
                "steps_per_s_range": [rates[0], rates[-1]],
                "ratio": statistics.median(ratios),
                "ratio_range": [ratios[0], ratios[-1]],
                "first_iteration_s": compiled,
                "mflop_per_step": flops / steps / 1e6,
            }
        )
    return rows


def main(
    title: str,
    scenario: str,
    makers: dict[str, Maker],
    peer: str,
    learners: dict[str, Learns] | None = None,
) -> None:
    """Compile all, then run them by turns; print the medians and the ratios to the peer. Or let
    the learners learn, and print who wins."""
    parser = argparse.ArgumentParser(description=title.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    if learners:
        parser.add_argument("--learn", type=int, metavar="STEPS")
        parser.add_argument("--every", type=int, default=50_000, help="steps between tests")
        parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    if learners and arguments.learn:
        contest(learners, arguments.seeds, arguments.learn, arguments.every, arguments.json)
        return
    rows = race(arguments.rounds, makers, peer)
    peak = peak_gflops(5)
    if arguments.json:
        print(json.dumps({"matmul_peak_gflops": peak, "rows": rows}))
        return
    print(f"smax/{scenario}, {ENVS} environments x {STEPS} steps; matrix peak {peak:.0f} GFLOP/s")
    for row in rows:
        low, high = row["ratio_range"]
        print(
            f"{row['program']:<27} {row['steps_per_s']:>8,.0f} steps/s  {row['ratio']:.2f} x"
            f" [{low:.2f}, {high:.2f}]  first iteration after {row['first_iteration_s']:.1f} s,"
            f" {row['mflop_per_step']:.1f} MFLOP a step"
        )


if __name__ == "__main__":
    main(__doc__ or "", SCENARIO, MAKERS, PEER)
