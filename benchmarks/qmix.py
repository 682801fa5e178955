"""JaxMARL's QMIX for SMAX in its published configuration, but for the scenario: dense and GRU
layers of 512 units that all agents share, a mixing layer of 64 units and networks of 256 that make
its weights, 16 environments x 128 steps, in JaxMARL's environment. Its training script is not part
of its package; this is our re-creation of what it computes (`qmix_rnn.py` and `ql_rnn_smax.yaml` in
`baselines/QLearning`). Both make an update of 32 episodes or rollouts for every 256 environment
steps.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

import dm2
import racing
import winning
from dm2.envs.smax.parity import Reference
from ippo import Cell

SCENARIO = "3s_vs_4z"
PEER = "JaxMARL QMIX (re-created)"
ENVS, STEPS, UNITS, EMBED, HYPER = 16, 128, 512, 64, 256
UPDATES, BATCH, KEPT = 8, 32, 5000
LEARNING_STARTS, TARGET_EVERY = 10_000, 10
"""Steps before anything is learnt, and iterations between copies of the networks."""
DECAY = 0.1 * 1e7
"""Steps over which the share of random actions falls from 1 to 0.05."""
RATE, DISCOUNT, SCALE = 5e-5, 0.99, 10.0


class Values(nn.Module):
    """A dense layer, a GRU and a head."""

    actions: int

    @nn.compact
    def __call__(self, hidden: Array, xs: tuple[Array, Array]) -> tuple[Array, Array]:
        """Next memory `[B, H]`, and values `[T, B, A]`."""
        inputs, starts = xs
        dense = functools.partial(nn.Dense, kernel_init=nn.initializers.orthogonal(1.0))
        hidden, x = Cell()(hidden, (nn.relu(dense(UNITS)(inputs)), starts))
        return hidden, dense(self.actions)(x)


class Monotonic(nn.Module):
    """The mixing network, whose weights other networks make of the state."""

    @nn.compact
    def __call__(self, values: Array, state: Array) -> Array:
        """The team's values `[T, B]` of its agents' `[T, B, K]`."""
        dense = functools.partial(nn.Dense, kernel_init=nn.initializers.orthogonal(0.001))

        def made(hidden: int, size: int) -> Array:
            return dense(size)(nn.relu(dense(hidden)(state)))

        first = jnp.abs(made(HYPER, EMBED * values.shape[-1]))
        first = first.reshape(*values.shape, EMBED)
        hidden = nn.elu(jnp.einsum("tbk,tbke->tbe", values, first) + dense(EMBED)(state))
        second = jnp.abs(made(HYPER, EMBED))
        return jnp.sum(hidden * second, axis=-1) + made(EMBED, 1)[..., 0]


class Row(NamedTuple):
    """A step of all environments: of the agents `[N, K, ...]`, then of the teams `[N, ...]`."""

    seen: Array
    starts: Array
    legal: Array
    action: Array
    state: Array
    reward: Array
    over: Array
    """Whether the episode was over after the step before."""


class QmixPeer:
    """QMIX with a replay of rollouts: one iteration of collecting and learning."""

    iteration_steps = ENVS * STEPS

    def __init__(self, scenario: str, seed: int = 0, starts: int = LEARNING_STARTS) -> None:
        self.seed, self.starts = seed, starts
        self.env = Reference(scenario, lethal_walls=True, limit=winning.LIMIT).env
        self.names = list(self.env.agents)
        self.actions = self.env.action_space(self.names[0]).n
        self.size = self.env.observation_space(self.names[0]).shape[0] + len(self.names)
        # Their type allows for changed variables beside what a network returns.
        self.networks: tuple[Any, Any] = (Values(self.actions), Monotonic())
        self.optimiser = optax.chain(optax.clip_by_global_norm(10.0), optax.radam(RATE))
        self.iterate = jax.jit(self._iterate, donate_argnums=0)

    def _stack(self, by_agent: dict[str, Array]) -> Array:
        return jnp.stack([by_agent[name] for name in self.names])

    def _named(self, seen: Array) -> Array:
        """Observations `[K, N, O]` with the agents' numbers behind them."""
        count = len(self.names)
        numbers = jnp.broadcast_to(jnp.eye(count)[:, None], (*seen.shape[:2], count))
        return jnp.concatenate([seen, numbers], axis=-1)

    def _values(self, params: Any, memory: Array, seen: Array, starts: Array) -> tuple[Any, Array]:
        """Of `[T, K, N, ...]` or `[T, N, K, ...]`, which share an axis within."""
        flat = (seen.reshape(len(seen), -1, self.size), starts.reshape(len(seen), -1))
        memory, values = self.networks[0].apply(params, memory, flat)
        return memory, values.reshape(*starts.shape, -1)

    def memory(self, envs: int) -> Array:
        """As episodes begin."""
        return jnp.zeros((envs * len(self.names), UNITS))

    def init(self) -> Any:
        """Parameters, their copy, the optimiser, the replay, and how many iterations there were."""
        seen, state = self.env.reset(jax.random.PRNGKey(0))
        named = self._named(self._stack(seen)[:, None])
        starts = jnp.ones((len(self.names), 1), bool)
        keys = jax.random.split(jax.random.PRNGKey(self.seed))
        inputs = (named.reshape(1, -1, self.size), starts.reshape(1, -1))
        values, team = jnp.zeros((1, 1, len(self.names))), seen["world_state"][None, None]
        params = (
            self.networks[0].init(keys[0], self.memory(1), inputs),
            self.networks[1].init(keys[1], values, team),
        )
        legal = self._stack(self.env.get_avail_actions(state))[None].astype(bool)
        starts, reward = jnp.ones((1, len(self.names)), bool), jnp.zeros(1)
        seen = jnp.swapaxes(named, 0, 1)
        over = jnp.ones(1, bool)
        row = Row(seen, starts, legal, starts.astype(int), team[0], reward, over)
        room = (KEPT // ENVS, STEPS, ENVS)
        replay = jax.tree.map(lambda x: jnp.zeros((*room, *x.shape[1:]), x.dtype), row)
        return params, jax.tree.map(jnp.copy, params), self.optimiser.init(params), replay, 0

    def _collect(self, params: Any, epsilon: Array, key: Array) -> Row:
        reset_key, key = jax.random.split(key)
        seen, env = jax.vmap(self.env.reset)(jax.random.split(reset_key, ENVS))
        starts = jnp.zeros((len(self.names), ENVS), bool)

        def step(carry: Any, key: Array) -> tuple[Any, Row]:
            env, seen, state, starts, over, memory = carry
            pick_key, act_key, env_key = jax.random.split(key, 3)
            legal = self._stack(jax.vmap(self.env.get_avail_actions)(env)).astype(bool)
            memory, values = self._values(params, memory, seen[None], starts[None])
            best = jnp.argmax(jnp.where(legal, values[0], -1e10), axis=-1)
            anything = jax.random.categorical(act_key, jnp.where(legal, 0.0, -jnp.inf))
            random = jax.random.uniform(pick_key, best.shape) < epsilon
            action = jnp.where(random, anything, best)
            following, env, reward, done, _ = jax.vmap(self.env.step)(
                jax.random.split(env_key, ENVS), env, dict(zip(self.names, action, strict=True))
            )
            shared = SCALE * reward[self.names[0]]
            seen, starts, legal, action = (
                jnp.swapaxes(x, 0, 1) for x in (seen, starts, legal, action)
            )
            row = Row(seen, starts, legal, action, state, shared, over)
            dead = self._stack(done)
            named = self._named(self._stack(following))
            named = jnp.where(dead[..., None], 0.0, named)
            after = (env, named, following["world_state"], dead, done["__all__"], memory)
            return after, row

        carry = (env, self._named(self._stack(seen)), seen["world_state"], starts, starts[0])
        _, rows = jax.lax.scan(step, (*carry, self.memory(ENVS)), jax.random.split(key, STEPS))
        return rows

    def _loss(self, params: Any, target: Any, rows: Row) -> Array:
        def of(params: Any) -> Array:
            return self._values(params[0], self.memory(BATCH), rows.seen, rows.starts)[1]

        def mixed(params: Any, values: Array) -> Array:
            return self.networks[1].apply(params[1], values, rows.state)

        def at(values: Array, actions: Array) -> Array:
            return jnp.take_along_axis(values, actions[..., None], axis=-1)[..., 0]

        values = of(params)
        best = jnp.argmax(jnp.where(rows.legal, values, -1e10), axis=-1)
        following = mixed(target, at(of(target), best))[1:]
        # As there, although `over` at a step says that the step before it was the last.
        aim = rows.reward[:-1] + DISCOUNT * (1.0 - rows.over[:-1]) * following
        errors = mixed(params, at(values, rows.action))[:-1] - jax.lax.stop_gradient(aim)
        return jnp.mean(jnp.square(errors))

    def _iterate(self, agent: Any, key: Array) -> tuple[Any, Array]:
        params, target, opt, replay, count = agent
        collect_key, learn_key = jax.random.split(key)
        share = count * self.iteration_steps / DECAY
        epsilon = jnp.maximum(1.0 - 0.95 * share, 0.05)
        rows = self._collect(params[0], epsilon, collect_key)
        rollouts = len(replay.reward)
        place = count % rollouts
        replay = jax.tree.map(lambda kept, new: kept.at[place].set(new), replay, rows)
        present = jnp.minimum(count + 1, rollouts)

        def update(learner: Any, key: Array) -> tuple[Any, Array]:
            params, opt = learner
            which, where = jax.random.split(key)
            which = jax.random.randint(which, (BATCH,), 0, present)
            where = jax.random.randint(where, (BATCH,), 0, ENVS)

            batch = jax.tree.map(lambda x: jnp.moveaxis(x[which, :, where], 0, 1), replay)
            error, gradient = jax.value_and_grad(self._loss)(params, target, batch)
            updates, opt = self.optimiser.update(gradient, opt, params)
            return (optax.apply_updates(params, updates), opt), error

        def learn(learner: Any) -> tuple[Any, Array]:
            return jax.lax.scan(update, learner, jax.random.split(learn_key, UPDATES))

        enough = (count + 1) * self.iteration_steps > self.starts
        nothing = jnp.zeros(UPDATES)
        (params, opt), errors = jax.lax.cond(enough, learn, lambda x: (x, nothing), (params, opt))
        copied = count % TARGET_EVERY == 0
        target = jax.tree.map(lambda new, old: jnp.where(copied, new, old), params, target)
        return (params, target, opt, replay, count + 1), errors.mean()

    def greedy(self, agent: Any, memory: Any, seen: Array, starts: Array, legal: Array) -> Any:
        """Memory and the best legal actions `[K, N]`."""
        named = jnp.where(starts[..., None], 0.0, self._named(seen))
        memory, values = self._values(agent[0][0], memory, named[None], starts[None])
        return memory, jnp.argmax(jnp.where(legal, values[0], -1e10), axis=-1)

    def update_flops(self) -> float:
        """Products of the updates of an iteration: dense, GRU (six) and head, forward, twice back
        (but for the gradient of the inputs) and once more in the copy, and the mixer's likewise."""
        agents, state = len(self.names), self.env.state_size
        inner = 6 * UNITS**2 + UNITS * self.actions
        of_agent = 4 * inner + 3 * self.size * UNITS
        made = HYPER * EMBED * (agents + 1) + EMBED
        into = state * (2 * HYPER + 2 * EMBED)
        per_step = agents * of_agent + 4 * made + 3 * into + 4 * EMBED * (agents + 1)
        return 2.0 * per_step * UPDATES * BATCH * STEPS


def ours(envs: int, **changes: Any) -> racing.Work:
    """An iteration of dm2, which learns next to nothing."""
    return racing.ours("qmix", SCENARIO, envs, q={"learning_rate": 1e-12, **changes})


RACE = racing.Race(
    SCENARIO,
    {
        "dm2 QMIX": functools.partial(ours, 32),
        "dm2 QMIX, 512 units": functools.partial(ours, ENVS, hidden=UNITS, updates=UPDATES),
        PEER: functools.partial(
            racing.theirs, functools.partial(QmixPeer, SCENARIO, starts=0), ENVS * STEPS
        ),
    },
    PEER,
    {
        "dm2 QMIX": functools.partial(winning.ours, dm2.QMIX(), SCENARIO),
        PEER: functools.partial(winning.theirs, functools.partial(QmixPeer, SCENARIO)),
    },
)
