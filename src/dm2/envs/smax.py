"""StarCraft-like battles: JaxMARL's SMAX (Rutherford et al. 2023, arXiv 2311.10090).

What is mended here, and why:

- `step_env` is used, so that a battle's last observation is not lost to an automatic reset.
- Time limits are the task's own and flagged as truncation. SMAX's default limit is 100 steps, is
  folded into `done`, and lets a battle run one step longer than it says.
- A win is read from who is alive, not inferred from the reward.
- Walls. SMAX kills a unit that touches the map's edge, and moving there stays legal. StarCraft
  does no such thing; with an imitation reward it even gives agents a way to end an episode whose
  reward is negative. Walls are therefore safe here; `?walls=lethal` restores SMAX's rule.
"""

import contextlib
import functools
import io
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt32

from dm2.envs.base import EnvSpec, Frame, Observation, Step

__all__ = ["SCENARIOS", "Smax"]

_MARINE, _STALKER, _ZEALOT, _HYDRALISK = 0, 2, 3, 5
_DEFAULT_LIMIT = 100


class _Scenario(NamedTuple):
    """Unit types of either side (None: drawn at random) and the episode limit in steps."""

    allies: tuple[int, ...]
    enemies: tuple[int, ...]
    limit: int
    smacv2: bool = False


def _mixed(stalkers: int, zealots: int) -> tuple[int, ...]:
    return (_STALKER,) * stalkers + (_ZEALOT,) * zealots


def _marines(count: int) -> tuple[int, ...]:
    return (_MARINE,) * count


SCENARIOS: dict[str, _Scenario] = {
    # The paper's five tasks, with SMAC's episode limits.
    "5m_vs_6m": _Scenario(_marines(5), _marines(6), 70),
    "8m_vs_9m": _Scenario(_marines(8), _marines(9), 120),
    "3s_vs_3z": _Scenario(_mixed(3, 0), _mixed(0, 3), 150),
    "3s_vs_4z": _Scenario(_mixed(3, 0), _mixed(0, 4), 200),
    "3s_vs_5z": _Scenario(_mixed(3, 0), _mixed(0, 5), 250),
    # JaxMARL's other scenarios, with its limit.
    "3m": _Scenario(_marines(3), _marines(3), _DEFAULT_LIMIT),
    "8m": _Scenario(_marines(8), _marines(8), _DEFAULT_LIMIT),
    "25m": _Scenario(_marines(25), _marines(25), _DEFAULT_LIMIT),
    "10m_vs_11m": _Scenario(_marines(10), _marines(11), _DEFAULT_LIMIT),
    "27m_vs_30m": _Scenario(_marines(27), _marines(30), _DEFAULT_LIMIT),
    "2s3z": _Scenario(_mixed(2, 3), _mixed(2, 3), _DEFAULT_LIMIT),
    "3s5z": _Scenario(_mixed(3, 5), _mixed(3, 5), _DEFAULT_LIMIT),
    "3s5z_vs_3s6z": _Scenario(_mixed(3, 5), _mixed(3, 6), _DEFAULT_LIMIT),
    "6h_vs_8z": _Scenario((_HYDRALISK,) * 6, _mixed(0, 8), _DEFAULT_LIMIT),
    "smacv2_5_units": _Scenario(_marines(5), _marines(5), _DEFAULT_LIMIT, smacv2=True),
    "smacv2_10_units": _Scenario(_marines(10), _marines(10), _DEFAULT_LIMIT, smacv2=True),
    "smacv2_20_units": _Scenario(_marines(20), _marines(20), _DEFAULT_LIMIT, smacv2=True),
}


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """JaxMARL's import prints, and sets `sys.stdout` back to `sys.__stdout__` on the way."""
    names = ("stdout", "stderr", "__stdout__", "__stderr__")
    old = {name: getattr(sys, name) for name in names}
    for name in names:
        setattr(sys, name, io.StringIO())
    try:
        yield
    finally:
        for name, stream in old.items():
            setattr(sys, name, stream)


def _make_jaxmarl(scenario: _Scenario, lethal_walls: bool) -> Any:
    with _quiet_import():
        from jaxmarl.environments.smax import HeuristicEnemySMAX
        from jaxmarl.environments.smax.smax_env import Scenario
    units = jnp.array(scenario.allies + scenario.enemies, dtype=jnp.uint8)
    layout = Scenario(
        units, len(scenario.allies), len(scenario.enemies), scenario.smacv2, scenario.smacv2
    )
    # The limit is enforced by `Smax.step`; the inner one must never fire.
    return HeuristicEnemySMAX(
        scenario=layout, max_steps=2**30, walls_cause_death=lethal_walls, enemy_shoots=True
    )


class Smax:
    """One SMAX scenario behind the environment contract."""

    def __init__(self, scenario: str, *, walls: str = "safe", limit: int | None = None) -> None:
        """`scenario`: a key of `SCENARIOS`; `walls`: `safe` or `lethal`; `limit`: episode limit
        in steps, SMAC's by default."""
        layout = SCENARIOS[scenario]
        self._env = _make_jaxmarl(layout, walls == "lethal")
        self.num_allies = len(layout.allies)
        self.map_size = (float(self._env.map_width), float(self._env.map_height))
        self.unit_names: tuple[str, ...] = tuple(self._env.unit_type_names)
        self.unit_radii = tuple(float(r) for r in self._env.unit_type_radiuses)
        changed = {"walls": walls} if walls != "safe" else {}
        changed |= {"limit": str(limit)} if limit not in (None, layout.limit) else {}
        options = "&".join(f"{k}={v}" for k, v in changed.items())
        self.spec = EnvSpec(
            name=f"smax/{scenario}" + (f"?{options}" if options else ""),
            version=f"jaxmarl {version('jaxmarl')}",
            num_agents=self.num_allies,
            observation_size=int(self._env.obs_size),
            num_actions=int(self._env.num_ally_actions),
            state_size=int(self._env.state_size),
            episode_limit=limit or layout.limit,
        )

    def reset(self, key: UInt32[Array, "2"]) -> tuple[Any, Observation]:
        """Start a battle."""
        observations, state = self._env.reset(key)
        return state, self._observation(state, observations)

    def step(
        self, key: UInt32[Array, "2"], state: Any, actions: Int[Array, " K"]
    ) -> tuple[Any, Step]:
        """Eight world steps of the battle."""
        joint = {name: actions[i] for i, name in enumerate(self._env.agents)}
        observations, state, rewards, _, _ = self._env.step_env(key, state, joint)
        units = state.state.unit_alive
        allies, enemies = jnp.any(units[: self.num_allies]), jnp.any(units[self.num_allies :])
        terminated = ~(allies & enemies)
        late = state.state.step >= self.spec.episode_limit
        return state, Step(
            observation=self._observation(state, observations),
            reward=rewards[self._env.agents[0]],
            terminated=terminated,
            truncated=late & ~terminated,
            won=allies & ~enemies,
        )

    def _observation(self, state: Any, observations: dict[str, Array]) -> Observation:
        legal = self._env.get_avail_actions(state)
        # By name: the order of a dict's leaves would put ally_10 before ally_2.
        names = self._env.agents
        return Observation(
            local=jnp.stack([observations[name] for name in names]),
            legal=jnp.stack([legal[name] for name in names]).astype(bool),
            alive=state.state.unit_alive[: self.num_allies],
            state=observations["world_state"],
        )

    @functools.partial(jax.jit, static_argnums=0)
    def frame(self, state: Any) -> Frame:
        """What to draw of this battle."""
        inner = state.state
        moves, allies = self._env.num_movement_actions, self.num_allies
        index = jnp.arange(inner.unit_alive.shape[0])
        attack: Array = inner.prev_attack_actions - moves
        # Enemies number their targets from the last ally to the first.
        target = jnp.where(index < allies, attack + allies, allies - 1 - attack)
        distance = jnp.linalg.norm(
            inner.unit_positions[index] - inner.unit_positions[target], axis=-1
        )
        kinds = inner.unit_types.astype(jnp.int32)
        in_range = distance < self._env.unit_type_attack_ranges[kinds]
        shoots = (attack >= 0) & inner.unit_alive & in_range
        return Frame(
            position=inner.unit_positions,
            health=inner.unit_health / self._env.unit_type_health[kinds],
            alive=inner.unit_alive,
            target=jnp.where(shoots, target, -1),
            kind=kinds,
        )
