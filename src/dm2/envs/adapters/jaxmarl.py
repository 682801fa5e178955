"""JaxMARL's environments behind the environment contract: `jaxmarl/MPE_simple_spread_v3` and others
with discrete actions. The adapter needs `pip install 'dm2[jaxmarl]'`.

Where the two contracts differ, this holds:

- Options other than ours (`limit`, `rewards`, `competitive`) are JaxMARL's arguments:
  `jaxmarl/MPE_simple_spread_v3?num_agents=5`, `jaxmarl/HeuristicEnemySMAX?scenario=3m`.
- Unlike agents are padded to the widest: observations with zeros, actions with illegal ones.
- The team's reward is the mean of the agents' rewards, unless `rewards=individual` asks for each
  agent's own.
- Tasks whose agents play against each other are refused unless `competitive=true` asks for one.
- JaxMARL folds time limits into `done`. An episode that ends with the limit's step is truncated;
  one that ends before, that is won, or of which nobody lives, is terminated. Who lives at the limit
  is read from the state of a battle; elsewhere it is who lived the step before. A limit other than
  JaxMARL's is handed to its environment, which would otherwise end at its own.
- JaxMARL reports no victory. It is read from the state where one is defined: a battle in which
  the enemies are dead and an ally lives, a riddle that was told rightly. Elsewhere nobody can win,
  the specification says so (`wins`), and returns are what to compare.
- The state is all agents' observations, one after the other.
"""

import contextlib
import inspect
import io
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from dm2.envs.base import EnvSpec, Step, TeamView, full_name
from dm2.errors import InputError

__all__ = ["JaxMarl", "JaxMarlState", "quiet_import"]


class JaxMarlState(NamedTuple):
    """The state of `N` episodes; every leaf ends with their axis."""

    env: Any
    """JaxMARL's own state."""
    observations: Float[Array, "K O N"]
    legal: Bool[Array, "K A N"]
    alive: Bool[Array, "K N"]
    time: Int[Array, " N"]
    """Environment steps taken."""


class JaxMarl:
    """An environment of JaxMARL's behind the environment contract."""

    def __init__(
        self,
        name: str,
        /,
        *,
        limit: int | None = None,
        rewards: str = "shared",
        competitive: bool = False,
        **arguments: Any,
    ) -> None:
        """Make JaxMARL's environment and read its sizes.

        Args:
            name: The name in JaxMARL's registry.
            limit: Episode limit, environment steps; by default JaxMARL's own.
            rewards: `shared`, the agents' mean, or `individual`, each agent's own.
            competitive: Whether a task may be made whose agents play against each other.
            **arguments: JaxMARL's own. A battle's `scenario` and a kitchen's `layout` go by name.

        Raises:
            InputError: If JaxMARL is not installed, does not know the name or cannot make the
                environment with these arguments; the task is competitive; an agent's actions are
                not discrete; no limit is known.
        """
        field = f"env = 'jaxmarl/{name}'"
        try:
            with quiet_import():
                import jaxmarl
        except ImportError as error:
            raise InputError(f"{field}: needs JaxMARL: pip install 'dm2[jaxmarl]'") from error
        known = jaxmarl.registered_envs
        if name not in known:
            raise InputError(f"{field}: JaxMARL has no such environment; known: {', '.join(known)}")
        if name in _COMPETITIVE and competitive is not True:
            problem = "its agents play against each other; choose a task for a team"
            raise InputError(f"{field}: {problem}, or add competitive=true&rewards=individual")
        if rewards not in ("shared", "individual"):
            raise InputError(f"{field}: rewards must be 'shared' or 'individual'")

        def make(**options: int) -> Any:  # JaxMARL's environments are untyped
            with quiet_import():
                return jaxmarl.make(name, **_by_name(name, arguments), **options)

        try:
            self._env = make()
        except Exception as error:  # whatever the environment's constructor raises
            said = f"{type(error).__name__}: {error}"
            raise InputError(f"{field}: JaxMARL cannot make it: {said}") from error
        takes = _arguments_of(self._env)
        for argument in arguments:  # some constructors take any and use none
            if argument not in takes:
                raise InputError(
                    f"{field}: no option {argument!r}; known: {', '.join((*_OWN, *takes))}"
                )
        self._agents: list[str] = list(self._env.agents)
        spaces = [self._env.action_space(agent) for agent in self._agents]
        if not all(hasattr(space, "n") for space in spaces):
            raise InputError(f"{field}: its actions are not discrete; choose another environment")
        self._actions = [int(space.n) for space in spaces]
        own_limit = getattr(self._env, "max_steps", None)
        episode_limit = limit or own_limit
        if not isinstance(episode_limit, int):
            raise InputError(f"{field}: JaxMARL states no episode limit; add ?limit=STEPS")
        if own_limit is not None and episode_limit != own_limit:
            with contextlib.suppress(TypeError):  # its constructor takes none
                self._env = make(max_steps=episode_limit)
            ends = self._env.max_steps
            if ends < episode_limit:
                remedy = f"JaxMARL ends its episodes after {ends} steps; ask for that many at most"
                raise InputError(f"{field}: limit = {limit}: {remedy}")
        self._won, self._alive = _VICTORIES.get(name), _LIVING.get(name)
        observations, state = jax.eval_shape(self._env.reset, jax.random.PRNGKey(0))
        named = isinstance(observations, dict) and observations.keys() >= set(self._agents)
        if not named:
            problem = "its observations do not go by its agents' names"
            raise InputError(f"{field}: {problem}; choose another environment")
        self._masks = self._has_masks(state)
        sizes = [observations[agent].size for agent in self._agents]
        self.spec = EnvSpec(
            name=full_name(
                f"jaxmarl/{name}",
                ("limit", limit, own_limit),
                ("rewards", rewards, "shared"),
                ("competitive", "true" if competitive else None, None),
                *((option, value, None) for option, value in sorted(arguments.items())),
            ),
            version=f"jaxmarl {version('jaxmarl')}",
            num_agents=len(self._agents),
            observation_size=max(sizes),
            num_actions=max(self._actions),
            state_size=max(sizes) * len(sizes),
            episode_limit=episode_limit,
            wins=self._won is not None,
            own_rewards=rewards == "individual",
        )

    def reset(self, key: UInt32[Array, "2"], num_envs: int) -> JaxMarlState:
        """Starts `num_envs` episodes."""
        reset = jax.vmap(self._env.reset, out_axes=-1)
        observations, state = reset(jax.random.split(key, num_envs))
        alive = jnp.ones((self.spec.num_agents, num_envs), bool)
        return self._state(state, observations, alive, jnp.zeros(num_envs, jnp.int32))

    def step(
        self, key: UInt32[Array, "2"], state: JaxMarlState, actions: Int[Array, "K N"]
    ) -> tuple[JaxMarlState, Step]:
        """One environment step of every episode."""
        keys = jax.random.split(key, actions.shape[-1])
        chosen = dict(zip(self._agents, actions, strict=True))
        step = jax.vmap(self._env.step_env, in_axes=(0, -1, -1), out_axes=-1)
        observations, env, rewards, dones, _ = step(keys, state.env, chosen)
        time, over = state.time + 1, dones["__all__"]
        late = time >= self.spec.episode_limit
        alive = state.alive & ~jnp.stack([dones[agent] for agent in self._agents])
        # At a time limit JaxMARL calls agents done that are alive.
        living = state.alive & self._alive(env, actions) if self._alive else state.alive
        alive = jnp.where(late, living, alive)
        reward = jnp.stack([rewards[agent] for agent in self._agents])
        reward = reward if self.spec.own_rewards else jnp.mean(reward, axis=0)
        won = over & (self._won(state.env, env, actions) if self._won else False)
        terminated = over & (won | ~late | ~jnp.any(alive, axis=0))
        return self._state(env, observations, alive, time), Step(
            reward=reward.astype(jnp.float32),
            terminated=terminated,
            truncated=late & ~terminated,
            won=won,
        )

    def observe(self, state: JaxMarlState) -> TeamView:
        """What JaxMARL's agents perceive, padded to the widest."""
        observations = jnp.moveaxis(state.observations, 1, 2)
        return TeamView(
            observations=observations,
            legal=jnp.moveaxis(state.legal, 1, 2),
            alive=state.alive,
            state=jnp.moveaxis(observations, 0, 1).reshape(observations.shape[1], -1),
        )

    def _state(
        self,
        env: Any,
        observations: dict[str, Array],
        alive: Bool[Array, "K N"],
        time: Int[Array, " N"],
    ) -> JaxMarlState:
        """The state that holds JaxMARL's state `env`, with observations and legal actions padded to
        the widest agent's."""
        num_envs, spec = len(time), self.spec
        rows = [observations[agent].reshape(-1, num_envs) for agent in self._agents]
        rows = [row.astype(jnp.float32) for row in rows]
        padded = [jnp.pad(row, ((0, spec.observation_size - len(row)), (0, 0))) for row in rows]
        stacked = jnp.stack(padded)
        choices = (
            jnp.arange(spec.num_actions)[None, :, None] < jnp.array(self._actions)[:, None, None]
        )
        legal = jnp.broadcast_to(choices, (spec.num_agents, spec.num_actions, num_envs))
        if self._masks:
            masks = jax.vmap(self._env.get_avail_actions, in_axes=-1, out_axes=-1)(env)
            rows = [masks[agent].astype(bool) for agent in self._agents]
            padded = [jnp.pad(row, ((0, spec.num_actions - len(row)), (0, 0))) for row in rows]
            legal = legal & jnp.stack(padded)
        return JaxMarlState(env, stacked, legal, alive, time)

    def _has_masks(self, state: Any) -> bool:
        """Whether the environment says which actions are legal."""
        try:
            masks = jax.eval_shape(self._env.get_avail_actions, state)
        except (AttributeError, NotImplementedError):
            return False
        return isinstance(masks, dict) and set(self._agents) <= set(masks)


def _battle_is_won(before: Any, after: Any, actions: Int[Array, "K N"]) -> Bool[Array, " N"]:
    """Whether all enemies of an SMAX battle are dead and an ally lives."""
    alive, num_allies = after.state.unit_alive, len(actions)
    return jnp.any(alive[:num_allies], axis=0) & ~jnp.any(alive[num_allies:], axis=0)


def _living_allies(after: Any, actions: Int[Array, "K N"]) -> Bool[Array, "K N"]:
    alive: Bool[Array, "U N"] = after.state.unit_alive
    return alive[: len(actions)]


def _riddle_is_solved(before: Any, after: Any, actions: Int[Array, "K N"]) -> Bool[Array, " N"]:
    """Whether the prisoner in the room told, and all had been there."""
    told = jnp.take_along_axis(actions, before.agent_in_room[None], axis=0)[0] == _TELL
    return told & jnp.all(after.has_been.astype(bool), axis=0)


_TELL = 2  # the riddle's action
_VICTORIES = {"HeuristicEnemySMAX": _battle_is_won, "switch_riddle": _riddle_is_solved}
"""By name: whether an episode that is over was won, from the states before and after the last step
and the actions of it."""


_LIVING = {"HeuristicEnemySMAX": _living_allies}
"""By name: which agents live, from the state and as many actions as there are agents."""
_COMPETITIVE = (
    "MPE_simple_adversary_v3",
    "MPE_simple_crypto_v3",
    "MPE_simple_push_v3",
    "MPE_simple_tag_v3",
    "MPE_simple_world_comm_v3",
    "SMAX",
    "coin_game",
    "storm",
    "storm_2p",
    "storm_np",
)


_OWN = ("limit", "rewards", "competitive")
"""The options that are not JaxMARL's."""


def _arguments_of(env: Any) -> list[str]:
    """What the constructors of an environment, and of one that it wraps, use."""
    classes = (*type(env).__mro__, *type(getattr(env, "_env", None)).__mro__)
    constructors = [vars(one)["__init__"] for one in classes if "__init__" in vars(one)]
    constructors = [one for one in constructors if inspect.isfunction(one)]
    signatures = [inspect.signature(one).parameters.values() for one in constructors]
    named = (part for parts in signatures for part in list(parts)[1:])
    return sorted({part.name for part in named if part.kind != part.VAR_KEYWORD})


def _by_name(env: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """JaxMARL's arguments, with the objects that it wants in place of their names."""
    made = dict(arguments)
    if "scenario" in made and "SMAX" in env:
        from jaxmarl.environments.smax import map_name_to_scenario

        made["scenario"] = map_name_to_scenario(str(made["scenario"]))
    if "layout" in made and env == "overcooked":
        from jaxmarl.environments.overcooked import overcooked_layouts

        made["layout"] = overcooked_layouts[made["layout"]]
    return made


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """A context in which JaxMARL can be imported without a trace: its import prints, and sets
    `sys.stdout` to `sys.__stdout__`."""
    names = ("stdout", "stderr", "__stdout__", "__stderr__")
    old = {name: getattr(sys, name) for name in names}
    for name in names:
        setattr(sys, name, io.StringIO())
    try:
        yield
    finally:
        for name, stream in old.items():
            setattr(sys, name, stream)
