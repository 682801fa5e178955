"""JaxMARL's recurrent MAPPO for SMAX in its published configuration, but for the scenario: dense
and GRU layers of 128 units, an actor and a critic shared by all agents, in JaxMARL's environment.
Its training script is not part of its package; this is our re-creation of what it computes
(`baselines/MAPPO/mappo_rnn_smax.py`), but for the learning rate, which stays what it is at first
(JaxMARL lets it fall over 10 million steps).
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
from ippo import EPOCHS, MINIBATCHES, UNITS, Cell
from racing import ENVS, STEPS

SCENARIO = "3s_vs_5z"
LEARNED = "3s_vs_4z"  # which is learnt in fewer steps
PEER = "JaxMARL MAPPO (re-created)"
CLIP, DISCOUNT, LAMBDA = 0.2, 0.99, 0.95


class Network(nn.Module):
    """A dense layer, a GRU, a dense layer and a head: the actor, or with one output the critic."""

    outputs: int
    head_gain: float

    @nn.compact
    def __call__(self, hidden: Array, xs: tuple[Array, Array]) -> tuple[Array, Array]:
        """Next memory `[B, H]`, and outputs `[T, B, D]`."""
        inputs, starts = xs
        orthogonal = nn.initializers.orthogonal
        x = nn.relu(nn.Dense(UNITS, kernel_init=orthogonal(2**0.5))(inputs))
        hidden, x = Cell()(hidden, (x, starts))
        x = nn.relu(nn.Dense(UNITS, kernel_init=orthogonal(2.0))(x))
        return hidden, nn.Dense(self.outputs, kernel_init=orthogonal(self.head_gain))(x)


class Row(NamedTuple):
    """A step of all actors, agents of all environments in one axis."""

    seen: Array
    state: Array
    """What the critic takes: the global state and the agent's number."""
    starts: Array
    """Whether the actor was dead, or its episode over, after the step before."""
    legal: Array
    action: Array
    log_prob: Array
    value: Array
    reward: Array
    over: Array


class MappoPeer:
    """Recurrent MAPPO: one iteration of collecting and learning."""

    iteration_steps = ENVS * STEPS

    def __init__(self, scenario: str, seed: int = 0) -> None:
        self.seed = seed
        self.env = Reference(scenario, lethal_walls=True, limit=winning.LIMIT).env
        self.names = list(self.env.agents)
        self.actors = ENVS * len(self.names)
        self.actions = self.env.action_space(self.names[0]).n
        self.sizes = (
            self.env.observation_space(self.names[0]).shape[0],
            self.env.state_size + len(self.names),
        )
        self.networks = (Network(self.actions, 0.01), Network(1, 1.0))
        # Its type allows for changed variables beside what a network returns.
        self.forward: list[Any] = [network.apply for network in self.networks]
        self.optimiser = optax.chain(optax.clip_by_global_norm(0.25), optax.adam(2e-3, eps=1e-5))
        self.iterate = jax.jit(self._iterate, donate_argnums=0)

    def _stack(self, by_agent: dict[str, Array]) -> Array:
        stacked = jnp.stack([by_agent[name] for name in self.names])
        return stacked.reshape(self.actors, *stacked.shape[2:])

    def _states(self, seen: dict[str, Array]) -> Array:
        """The critic's input, `[actors, S + K]`."""
        count = len(self.names)
        states = jnp.tile(seen["world_state"], (count, 1))
        return jnp.concatenate([states, jnp.repeat(jnp.eye(count), ENVS, axis=0)], axis=1)

    def init(self) -> Any:
        """Parameters and optimisers of both networks, environments, memories."""
        key, *network_keys = jax.random.split(jax.random.PRNGKey(self.seed), 3)
        keys = jax.random.split(key, ENVS)
        seen, env = jax.jit(jax.vmap(self.env.reset))(keys)
        starts, hidden = jnp.ones(self.actors, bool), jnp.zeros((self.actors, UNITS))
        learners = []
        for network, size, key in zip(self.networks, self.sizes, network_keys, strict=True):
            example = (jnp.zeros((1, self.actors, size)), starts[None])
            params = network.init(key, hidden, example)
            learners.append((params, self.optimiser.init(params)))
        memories = (hidden, jnp.zeros_like(hidden))  # apart, as they are given away
        return tuple(learners), (env, self._stack(seen), self._states(seen), starts, memories)

    def _collect(self, learners: Any, carry: Any, key: Array) -> tuple[Any, Row]:
        (actor, _), (critic, _) = learners

        def step(carry: Any, key: Array) -> tuple[Any, Row]:
            env, seen, states, starts, (of_actor, of_critic) = carry
            act_key, env_key = jax.random.split(key)
            legal = self._stack(jax.vmap(self.env.get_avail_actions)(env)).astype(bool)
            of_actor, logits = self.forward[0](actor, of_actor, (seen[None], starts[None]))
            of_critic, value = self.forward[1](critic, of_critic, (states[None], starts[None]))
            masked: Any = jnp.where(legal, logits[0], -1e10)
            action = jax.random.categorical(act_key, masked)
            log_prob = jnp.take_along_axis(jax.nn.log_softmax(masked), action[:, None], -1)
            orders = action.reshape(len(self.names), ENVS)
            following, env, reward, done, _ = jax.vmap(self.env.step)(
                jax.random.split(env_key, ENVS), env, dict(zip(self.names, orders, strict=True))
            )
            over = jnp.tile(done["__all__"], len(self.names))
            chosen = (action, log_prob[:, 0], value[0, :, 0])
            row = Row(seen, states, starts, legal, *chosen, self._stack(reward), over)
            after = (self._stack(following), self._states(following), self._stack(done))
            return (env, *after, (of_actor, of_critic)), row

        return jax.lax.scan(step, carry, jax.random.split(key, STEPS))

    def _advantages(self, learners: Any, carry: Any, rows: Row) -> Array:
        """`[T, actors]`."""
        _, _, states, starts, (_, memory) = carry
        last = self.forward[1](learners[1][0], memory, (states[None], starts[None]))[1][0, :, 0]

        def step(following: tuple[Array, Array], row: Row) -> tuple[Any, Array]:
            gain, value = following
            going = 1.0 - row.over
            delta = row.reward + DISCOUNT * value * going - row.value
            gain = delta + DISCOUNT * LAMBDA * going * gain
            return (gain, row.value), gain

        return jax.lax.scan(step, (jnp.zeros(self.actors), last), rows, reverse=True)[1]

    def _actor_loss(self, params: Any, memory: Array, row: Row, gain: Array) -> Array:
        _, logits = self.forward[0](params, memory, (row.seen, row.starts))
        masked: Any = jnp.where(row.legal, logits, -1e10)
        log_probs = jax.nn.log_softmax(masked)
        chosen = jnp.take_along_axis(log_probs, row.action[..., None], -1)[..., 0]
        ratio = jnp.exp(chosen - row.log_prob)
        gain = (gain - gain.mean()) / (gain.std() + 1e-8)
        return -jnp.minimum(ratio * gain, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * gain).mean()

    def _critic_loss(self, params: Any, memory: Array, row: Row, target: Array) -> Array:
        value = self.forward[1](params, memory, (row.state, row.starts))[1][..., 0]
        near = row.value + jnp.clip(value - row.value, -CLIP, CLIP)
        errors = jnp.maximum(jnp.square(value - target), jnp.square(near - target))
        return 0.5 * 0.5 * errors.mean()

    def _iterate(self, agent: Any, key: Array) -> tuple[Any, Array]:
        learners, carry = agent
        memories = carry[4]
        collect_key, *epoch_keys = jax.random.split(key, 1 + EPOCHS)
        carry, rows = self._collect(learners, carry, collect_key)
        gains = self._advantages(learners, carry, rows)
        aims = (gains, gains + rows.value)
        losses = (self._actor_loss, self._critic_loss)

        def minibatch(learners: Any, columns: Array) -> tuple[Any, Array]:
            batch = jax.tree.map(lambda x: jnp.take(x, columns, axis=1), rows)
            improved, total = [], jnp.zeros(())
            parts = zip(losses, learners, memories, aims, strict=True)
            for loss, (params, opt), memory, aim in parts:
                arguments = (memory[columns], batch, jnp.take(aim, columns, axis=1))
                error, gradient = jax.value_and_grad(loss)(params, *arguments)
                updates, opt = self.optimiser.update(gradient, opt, params)
                improved.append((optax.apply_updates(params, updates), opt))
                total += error
            return tuple(improved), total

        def epoch(learners: Any, key: Array) -> tuple[Any, Array]:
            order = jax.random.permutation(key, self.actors).reshape(MINIBATCHES, -1)
            return jax.lax.scan(minibatch, learners, order)

        learners, errors = jax.lax.scan(epoch, learners, jnp.stack(epoch_keys))
        return (learners, carry), errors.mean()

    def memory(self, envs: int) -> Array:
        """The actor's, as battles begin."""
        return jnp.zeros((envs * len(self.names), UNITS))

    def greedy(self, agent: Any, memory: Any, seen: Array, starts: Array, legal: Array) -> Any:
        """Memory and the likeliest legal actions `[K, N]`."""
        count = starts.size
        inputs = (seen.reshape(1, count, -1), starts.reshape(1, count))
        memory, logits = self.forward[0](agent[0][0][0], memory, inputs)
        masked: Any = jnp.where(legal, logits.reshape(legal.shape), -1e10)
        return memory, jnp.argmax(masked, axis=-1)

    def update_flops(self) -> float:
        """Products of one update: dense, GRU (six), dense, head, forward and twice back (but for
        the gradient of the inputs), of both networks."""
        total = 0
        for size, outputs in zip(self.sizes, (self.actions, 1), strict=True):
            per_row = size * UNITS + 7 * UNITS * UNITS + UNITS * outputs
            total += 3 * per_row - size * UNITS
        return 2.0 * total * self.actors * STEPS * EPOCHS


def ours(method: str, **ppo: float) -> racing.Work:
    """An iteration of dm2."""
    return racing.ours(method, SCENARIO, ppo={"learning_rate": 1e-12, **ppo})


RACE = racing.Race(
    SCENARIO,
    {
        "dm2 RMAPPO": functools.partial(ours, "rmappo"),
        "dm2 RMAPPO, 128 units": functools.partial(ours, "rmappo", hidden=UNITS),
        "dm2 IPPO": functools.partial(ours, "ippo"),
        PEER: functools.partial(racing.theirs, functools.partial(MappoPeer, SCENARIO)),
    },
    PEER,
    {
        "dm2 RMAPPO": functools.partial(winning.ours, dm2.RMAPPO(), LEARNED),
        PEER: functools.partial(winning.theirs, functools.partial(MappoPeer, LEARNED)),
    },
)
