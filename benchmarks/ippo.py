"""JaxMARL's recurrent IPPO for SMAX in its published configuration: one network of 128 units shared
by all agents, in JaxMARL's own environment. Its training script is not part of its package; this is
our re-creation of what it computes (`baselines/IPPO/ippo_rnn_smax.py` of JaxMARL 0.2), from
JaxMARL's environment and flax's GRU cell.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

import racing
from dm2.envs.smax.parity import Reference
from racing import ENVS, STEPS

SCENARIO, EPOCHS, MINIBATCHES, UNITS = "5m_vs_6m", 4, 4, 128
PEER = "JaxMARL IPPO (re-created)"


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

    def _collect(self, params: Any, carry: Any, key: Array) -> tuple[Any, Row]:
        def step(carry: Any, key: Array) -> tuple[Any, Row]:
            state, seen, starts, hidden = carry
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

        return jax.lax.scan(step, carry, jax.random.split(key, STEPS))

    def _iterate(self, agent: Any, key: Array) -> tuple[Any, Array]:
        params, opt, carry = agent
        memory = carry[3]
        collect_key, *epoch_keys = jax.random.split(key, 1 + EPOCHS)
        carry, rows = self._collect(params, carry, collect_key)
        _, seen, starts, hidden = carry
        inputs = (seen[None], starts[None], rows.seen[2][-1:])  # no value depends on what is legal
        last = self.forward(params, hidden, inputs)[2][0]

        def advantage(following: tuple[Array, Array], row: Row) -> tuple[Any, Array]:
            gain, value = following
            going = 1.0 - row.done
            gain = row.reward + 0.99 * value * going - row.value + 0.99 * 0.95 * going * gain
            return (gain, row.value), gain

        zeros = jnp.zeros(self.actors)
        gains = jax.lax.scan(advantage, (zeros, last), rows, reverse=True)[1]
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
        return (params, opt, carry), errors.mean()

    def update_flops(self) -> float:
        """Products of one update: dense, GRU (six), two dense, two heads, forward and twice back
        (but for the gradient of the observations)."""
        u = UNITS
        per_row = self.size * u + 8 * u * u + u * (self.actions + 1)
        return 2.0 * (3 * per_row - self.size * u) * self.actors * STEPS * EPOCHS


RACE = racing.Race(
    SCENARIO,
    {
        "dm2 IPPO": functools.partial(racing.ours, "ippo", SCENARIO),
        "dm2 DM²": functools.partial(racing.ours, "dm2", SCENARIO),
        PEER: functools.partial(racing.theirs, Peer),
    },
    PEER,
)
