"""A team that learns the values of its actions together: QMIX, VDN and IQL, which differ in how
the agents' values are mixed (`dm2.methods.centralised.mixing`) and in their targets.

Axes: `K` agents, `N` environments, `T` steps, `I` input features, `H` units, `M` values that have a
temporal-difference error (1 of a team, or `K`), `E` episodes of all updates of a rollout.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.agent.actor import Actor
from dm2.agent.demonstrations import Expert
from dm2.agent.episodes import Ongoing
from dm2.agent.inputs import Inputs, Moments
from dm2.agent.networks import RecurrentNet, mask_logits
from dm2.agent.packing import Sequences, packed_fit, paired
from dm2.agent.types import Params, Trajectory, View
from dm2.compilation import Program, compiler_options
from dm2.envs.base import EnvSpec
from dm2.methods.centralised.exploration import epsilon, exploring
from dm2.methods.centralised.mixing import Apart, Mixing, Monotonic
from dm2.methods.centralised.replay import Replay, TeamRow, rows_of, store
from dm2.methods.centralised.settings import Q
from dm2.methods.centralised.state import Perceived, QMemory, QState
from dm2.methods.centralised.targets import Targets, own_targets, td_targets, team_targets

__all__ = ["QLearning"]


class QLearning:
    """A team of `num_agents` agents that share a network; see `dm2.methods.base.Method` for what
    the functions are.

    Where layer norm is all that scales observations, they are kept after it, as 16-bit floats:
    no feature is then larger than the root of their number. Otherwise they are kept as they came,
    in 32 bits: 16 overflow on large features, and blur those that lie close together.
    """

    centralised = True
    shares_reward = True

    def __init__(
        self,
        settings: Q,
        inputs: Inputs,
        mixer: Mixing,
        reward_scale: float,
        spec: EnvSpec,
        num_envs: int,
    ) -> None:
        """Makes the method.

        Args:
            settings: Of its learning.
            inputs: How the networks' input is made of an observation.
            mixer: What makes the team's value of the agents'.
            reward_scale: What rewards are multiplied by before anything is learnt of them.
            spec: The environment's.
            num_envs: How many environments run side by side in training.
        """
        self.settings = settings
        self.inputs = inputs
        # Typed Any because flax's `apply` is untyped.
        self.mixer: Any = mixer
        self.network: Any = RecurrentNet(
            settings.hidden, spec.num_actions, 1.0, settings.dense_layers
        )
        self.reward_scale = reward_scale
        self.spec = spec
        self.num_agents = spec.num_agents
        self.optimiser = settings.transformation()
        self._num_envs = num_envs
        self._with_state = isinstance(mixer, Monotonic)
        self._own_errors = isinstance(mixer, Apart)
        options = compiler_options("learn")
        self._program = jax.jit(self._learn, donate_argnums=0, compiler_options=options)

    # ---- beginning

    def init(self, key: UInt32[Array, "2"]) -> QState:
        """A fresh team with an empty replay."""
        key, agent_key, mixer_key = jax.random.split(key, 3)
        spec, inputs = self.spec, self.inputs
        size = inputs.size(spec.observation_size, spec.num_actions)
        example = (jnp.zeros((1, 1, size)), jnp.zeros((1, 1), bool))
        agent = self.network.init(agent_key, self.network.initial_memory(1), *example)
        states = jnp.zeros((1, spec.state_size)) if self._with_state else None
        mixer = self.mixer.init(mixer_key, jnp.zeros((1, self.num_agents)), states)
        params = {"agent": agent, "mixer": mixer}
        none = jnp.zeros((), jnp.int32)
        running, limit = inputs.running, spec.episode_limit
        return QState(
            key=key,
            params=params,
            target=jax.tree.map(jnp.copy, params),
            optimiser=self.optimiser.init(params),
            since_copy=none,
            steps=none,
            moments=Moments.initial(spec.observation_size) if running else None,
            state_moments=(
                Moments.initial(spec.state_size) if running and self._with_state else None
            ),
            replay=Replay.initial(self._row(), limit, self.settings.capacity),
            ongoing=Ongoing.initial(self._row(), limit, self._num_envs),
        )

    def memory(self, num_envs: int) -> QMemory:
        """What a team that has perceived nothing remembers."""
        hidden = self.network.initial_memory(num_envs)
        hidden = jnp.broadcast_to(hidden, (self.num_agents, *hidden.shape))
        return QMemory(hidden, jnp.full((self.num_agents, num_envs), -1, jnp.int32))

    def replay_bytes(self) -> int:
        """What the episodes of a full replay take."""
        sizes = [x.dtype.itemsize * x.size for x in jax.tree.leaves(self._row())]
        return self.settings.capacity * (self.spec.episode_limit + 1) * sum(sizes)

    def _row(self) -> TeamRow:
        """The shapes and types of what is kept of a step."""
        spec, agents = self.spec, self.num_agents

        def of(dtype: Any, *shape: int) -> Any:
            return jax.ShapeDtypeStruct(shape, dtype)

        return TeamRow(
            observations=of(self._dtype, agents, spec.observation_size),
            legal=of(jnp.bool_, agents, spec.num_actions),
            alive=of(jnp.bool_, agents),
            actions=of(jnp.int32, agents),
            rewards=of(jnp.float32),
            states=of(self._dtype, spec.state_size) if self._with_state else None,
        )

    @property
    def _dtype(self) -> Any:
        inputs = self.inputs
        return jnp.float16 if inputs.layer and not inputs.running else jnp.float32

    # ---- acting

    def action_keys(self, state: QState, steps: int) -> UInt32[Array, "T K 2"]:
        """Each agent's own keys for the coming rollout."""
        # Stream 0 of the team's key is learning, stream 1 acting.
        acting = jax.random.fold_in(state.key, 1)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(acting, jnp.arange(self.num_agents))
        return jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, steps))(keys), 1, 0)

    def act(
        self,
        state: QState,
        memory: QMemory,
        keys: UInt32[Array, "K 2"],
        view: View,
        greedy: bool,
        global_state: Float[Array, "N S"] | None = None,
    ) -> tuple[QMemory, Int[Array, "K N"], Perceived]:
        """Every agent takes its most valued legal action, or where not `greedy`, with the state's
        probability `epsilon`, a random legal one."""
        settings = self.settings

        def one(memory: QMemory, key: Array, view: View, identity: Array) -> tuple[Array, Array]:
            observations = self.inputs.observations(state.moments, view.observations)
            inputs = self._inputs(observations, memory.action, view.starts, identity)
            hidden, values = self.network.apply(
                state.params["agent"], memory.hidden, inputs[None], view.starts[None]
            )
            if greedy:
                return hidden, jnp.argmax(mask_logits(values[0], view.legal), axis=-1)
            share = epsilon(settings, state.steps)
            return hidden, jax.random.categorical(key, exploring(values[0], view.legal, share))

        hidden, actions = jax.vmap(one)(memory, keys, view, jnp.eye(self.num_agents))
        actions = actions.astype(jnp.int32)
        kept = self.bootstrap(state, memory, view, global_state)._replace(legal=None)
        return QMemory(hidden, actions), actions, kept

    def actor_of(self, state: QState, agent: int) -> Actor:
        """The shared network with one agent's number."""
        return Actor(
            params=state.params["agent"],
            inputs=self.inputs,
            moments=state.moments,
            identity=jnp.eye(self.num_agents)[agent],
            epsilon=epsilon(self.settings, state.steps),
        )

    def bootstrap(
        self,
        state: QState,
        memory: QMemory,
        view: View,
        global_state: Float[Array, "N S"] | None = None,
    ) -> Perceived:
        """What the replay keeps of what the team perceives."""
        states = None
        if self._with_state and global_state is not None:
            states = self._kept(global_state)[None]
        return Perceived(self._kept(view.observations), view.legal, states)

    def _kept(self, observations: Float[Array, "*B O"]) -> Float[Array, "*B O"]:
        if self._dtype == jnp.float16:
            observations = self.inputs.observations(None, observations)
        return observations.astype(self._dtype)

    def _scaled(self, moments: Moments | None, kept: Float[Array, "*B O"]) -> Float[Array, "*B O"]:
        """What the networks take of what was kept."""
        if self._dtype == jnp.float16:
            return kept.astype(jnp.float32)
        return self.inputs.observations(moments, kept)

    def _inputs(
        self,
        observations: Float[Array, "N O"],
        last_action: Int[Array, " N"],
        starts: Bool[Array, " N"],
        identity: Float[Array, " K"],
    ) -> Float[Array, "N I"]:
        known = (last_action, starts, identity, self.spec.num_actions)
        return self.inputs.append(observations, *known)

    # ---- learning

    def learn(
        self, state: QState, trajectory: Trajectory, experts: Expert | None
    ) -> tuple[QState, dict[str, Any]]:
        """Stores the episodes that ended, then makes the updates of a rollout. The state's replay
        and episodes under way are used up."""
        kept = (state.replay, state.ongoing)
        (replay, ongoing), state, metrics = self._program(kept, _without(state), trajectory)
        return state._replace(replay=replay, ongoing=ongoing), metrics

    def programs(
        self, state: QState, trajectory: Trajectory, experts: Expert | None
    ) -> list[Program]:
        """The one program of `learn`."""
        arguments = ((state.replay, state.ongoing), _without(state), trajectory)
        return [Program(self._program, arguments)]

    def _learn(
        self, kept: tuple[Replay, Ongoing], state: QState, trajectory: Trajectory
    ) -> tuple[tuple[Replay, Ongoing], QState, dict[str, Array]]:
        settings = self.settings
        rows = rows_of(trajectory)
        replay, ongoing = store(*kept, rows, trajectory)
        key, learning = jax.random.split(jax.random.fold_in(state.key, 0))
        steps = jnp.minimum(state.steps + rows.rewards.size, settings.epsilon_steps)
        share = epsilon(settings, state.steps)
        state = self._with_moments(state._replace(key=key, steps=steps), rows)
        ready = replay.stored >= settings.learning_starts
        fit = functools.partial(self._fit, replay, learning)
        reported = jax.eval_shape(fit, state)[1]

        def idle(state: QState) -> tuple[QState, dict[str, Array]]:
            return state, jax.tree.map(lambda x: jnp.zeros(x.shape), reported)

        state, metrics = jax.lax.cond(ready, fit, idle, state)
        metrics |= {"epsilon": share, "episodes_stored": replay.stored.astype(jnp.float32)}
        return (replay, ongoing), state, {name: x[None] for name, x in metrics.items()}

    def _with_moments(self, state: QState, rows: TeamRow) -> QState:
        """The state whose moments include a rollout's observations and global states."""
        if state.moments is not None:
            steps, envs, agents, size = rows.observations.shape
            observations = rows.observations.reshape(steps, envs * agents, size)
            alive = rows.alive.reshape(steps, envs * agents)
            state = state._replace(moments=state.moments.including(observations, alive))
        if state.state_moments is not None and rows.states is not None:
            everywhere = jnp.ones(rows.states.shape[:2], bool)
            moments = state.state_moments.including(rows.states, everywhere)
            state = state._replace(state_moments=moments)
        return state

    def _fit(
        self, replay: Replay, key: UInt32[Array, "2"], state: QState
    ) -> tuple[QState, dict[str, Array]]:
        """The updates of one rollout, all against the same target network, which may be replaced
        after them."""
        settings = self.settings
        updates, batch = settings.updates, settings.batch
        episodes = replay.draw(key, (updates, batch))
        chosen = episodes.reshape(-1)
        length, truncated = replay.length[chosen], replay.truncated[chosen]
        time = jnp.arange(self.spec.episode_limit + 1)[:, None]
        places = chosen * len(time) + time
        perceived = length + truncated
        sequences = Sequences(
            memory=jnp.zeros((len(chosen), 2 * self.num_agents * settings.hidden)),
            inputs=places,
            starts=jnp.broadcast_to(time == 0, places.shape),
            alive=time < perceived,
        )
        packing = paired(perceived.reshape(updates, batch), len(time))
        params, optimiser, metrics = packed_fit(
            functools.partial(self.values, replay.rows, state),
            self.loss,
            self.optimiser,
            state.params,
            state.optimiser,
            sequences,
            self.targets(replay, chosen),
            packing,
        )
        made = state.since_copy + updates
        copy = made >= settings.target_every
        target = jax.tree.map(lambda new, old: jnp.where(copy, new, old), params, state.target)
        state = state._replace(
            params=params,
            target=target,
            optimiser=optimiser,
            since_copy=jnp.where(copy, 0, made),
        )
        return state, jax.tree.map(jnp.mean, metrics)

    def targets(self, replay: Replay, chosen: Int[Array, " E"]) -> Targets:
        """The parts of the targets that no network decides, `[T, E, M]`, of stored episodes."""
        rewards = replay.rows.rewards[chosen] * self.reward_scale
        length, truncated = replay.length[chosen], replay.truncated[chosen]
        if not self._own_errors:
            targets = jax.vmap(team_targets)(rewards, length, truncated)
            return jax.tree.map(lambda x: x.T[..., None], targets)
        of_agents = jax.vmap(own_targets, in_axes=(None, 1, None, None, None), out_axes=1)
        of_episodes = jax.vmap(of_agents, in_axes=(0, 0, 0, 0, None), out_axes=1)
        alive = replay.rows.alive[chosen]
        return of_episodes(rewards, alive, length, truncated, self.settings.discount)

    def values(
        self,
        rows: TeamRow,
        state: QState,
        params: dict[str, Params],
        memory: Float[Array, "N Z"],
        places: Int[Array, "S N"],
        starts: Bool[Array, "S N"],
    ) -> tuple[Float[Array, "N Z"], Float[Array, "S N D"]]:
        """Goes through `S` steps of `N` episodes with the network and with its copy.

        Args:
            rows: Those of the replay, of which `places` are taken.
            state: The team, whose target network and moments do not change meanwhile.
            params: What is being learnt.
            memory: The recurrent states of the network and of its copy, of all agents.
            places: Where the rows stand in the replay.
            starts: Whether an episode begins at a step.

        Returns:
            The next memory. Of every step, the mixed values of the actions that were taken and,
            behind these (`D = 2 M`), without a gradient, what a target makes of the step: the
            copy's mixed values of the legal actions that the network values most (double
            Q-learning, arXiv 1509.06461).
        """
        agents, (steps, batch) = self.num_agents, places.shape
        flat = places.reshape(-1)
        every: TeamRow = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
        row = jax.tree.map(lambda x: x.at[flat].get(mode="promise_in_bounds"), every)
        last = every.actions.at[jnp.maximum(flat - 1, 0)].get(mode="promise_in_bounds")
        with_known = jax.vmap(self._inputs, in_axes=(1, 1, None, 0), out_axes=1)
        observations = self._scaled(state.moments, row.observations)
        inputs = with_known(observations, last, starts.reshape(-1), jnp.eye(agents))
        inputs = inputs.reshape(steps, batch * agents, -1)
        states = None
        if row.states is not None:
            states = self._scaled(state.state_moments, row.states)
        hidden = memory.reshape(batch, agents, 2, -1).reshape(batch * agents, 2, -1)
        begins = jnp.repeat(starts, agents, axis=1)

        def run(params: Params, hidden: Array) -> tuple[Array, Array]:
            hidden, values = self.network.apply(params, hidden, inputs, begins)
            return hidden, values.reshape(steps * batch, agents, -1)

        mine, values = run(params["agent"], hidden[:, 0])
        copied, target_values = run(state.target["agent"], jax.lax.stop_gradient(hidden[:, 1]))
        best = jnp.argmax(mask_logits(jax.lax.stop_gradient(values), row.legal), axis=-1)
        mix = self.mixer.apply
        taken = mix(params["mixer"], _value_of(values, row.actions), states)
        target = mix(state.target["mixer"], _value_of(target_values, best), states)
        outputs = jnp.concatenate([taken, target], axis=-1)
        memory = jnp.stack([mine, copied], axis=1).reshape(batch, -1)
        return memory, outputs.reshape(steps, batch, -1)

    def loss(
        self, outputs: Float[Array, "*B N D"], targets: Targets, alive: Bool[Array, "*B N"]
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The mean over the steps that count of the squared error of an update's values, `(Q_t -
        y_t)^2`; see `td_targets`. `outputs` are those of `values`; their leading axes are time."""
        outputs = outputs.reshape(-1, *outputs.shape[-2:])
        targets = jax.tree.map(lambda x: x.reshape(-1, *x.shape[-2:]), targets)
        values, copied = jnp.split(outputs, 2, axis=-1)
        of_sequence = functools.partial(
            td_targets, discount=self.settings.discount, td_lambda=self.settings.td_lambda
        )
        of_all = jax.vmap(jax.vmap(of_sequence, in_axes=-1, out_axes=-1), in_axes=-1, out_axes=-1)
        wanted = of_all(targets, copied)
        counts = targets.counts * alive.reshape(*targets.counts.shape[:-1], 1)
        number = jnp.maximum(jnp.sum(counts), 1.0)

        def mean(x: Array) -> Array:
            return jnp.sum(jnp.where(counts > 0, x, 0.0)) / number

        loss = mean(jnp.square(values - jax.lax.stop_gradient(wanted)))
        return loss, {"q_loss": loss, "q_mean": mean(values), "q_target": mean(wanted)}


def _value_of(values: Float[Array, "B K A"], actions: Int[Array, "B K"]) -> Float[Array, "B K"]:
    return jnp.take_along_axis(values, actions[..., None], axis=-1)[..., 0]


def _without(state: QState) -> QState:
    """All but what is given away to the program that learns."""
    return state._replace(replay=None, ongoing=None)
