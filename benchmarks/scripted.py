"""Scripted teams under both rule sets: `python benchmarks/scripted.py [SCENARIO …]`.

Per scenario and script: how many of 256 battles are won, their mean length in steps and mean
return, under `smax/` and under `smac/`. The scripts need nothing learnt, so the table says what
the rules reward:

- closest: attack the closest enemy, walk to it if it is out of range;
- focus: everybody attacks the same enemy, the one closest to the team's centre;
- kite: as closest, but while the weapon cools walk away from enemies nearer than 4.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from dm2.envs import make
from dm2.envs.battle.scenarios import SMAC_SCENARIOS
from dm2.rollout import Worlds

BATTLES, SAFE = 256, 4.0
SCRIPTS = ("closest", "focus", "kite")


def script(name: str, env: Any, state: Any, legal: Array) -> Array:
    """The team's actions `[K, N]`."""
    smac = env.spec.name.startswith("smac/")
    stop, north, south, east, west, attack = (1, 2, 3, 4, 5, 6) if smac else (4, 0, 2, 1, 3, 5)
    frame, allies = env.frame(state), env.num_allies
    units = state.troops if smac else state.units
    position, alive = frame.position, frame.alive
    offset = position[None, allies:] - position[:allies, None]  # [K, M, 2, N]
    distance = jnp.where(alive[None, allies:], jnp.linalg.norm(offset, axis=2), jnp.inf)
    closest = jnp.argmin(distance, axis=1)
    if name == "focus":
        living = alive[:allies, None]
        centre = jnp.sum(jnp.where(living, position[:allies], 0.0), 0) / jnp.sum(living, 0)
        spread = jnp.linalg.norm(position[allies:] - centre, axis=1)
        one = jnp.argmin(jnp.where(alive[allies:], spread, jnp.inf), axis=0)
        target = jnp.broadcast_to(one, closest.shape)
    else:
        target = closest
    aim = jnp.take_along_axis(offset, target[:, None, None], axis=1)[:, 0]
    can = jnp.take_along_axis(legal, (attack + target)[..., None], axis=2)[..., 0]

    moves = jnp.array([north, south, east, west])
    headings = jnp.array([[0.0, 1], [0, -1], [1, 0], [-1, 0]])
    open_moves = jnp.moveaxis(legal[..., moves], 2, 0)

    def walk(direction: Array) -> Array:
        gain = jnp.einsum("md,kdn->mkn", headings, direction)
        best = jnp.argmax(jnp.where(open_moves, gain, -jnp.inf), axis=0)
        return jnp.where(jnp.any(open_moves, axis=0), moves[best], stop)

    actions = jnp.where(can, attack + target, walk(aim))
    if name == "kite":
        flee = (units.cooldown[:allies] > 0) & (jnp.min(distance, axis=1) < SAFE)
        actions = jnp.where(flee, walk(-aim), actions)
    return jnp.where(alive[:allies], actions, jnp.argmax(legal, axis=2))


def play(name: str, env: Any, seed: int = 0) -> tuple[float, float, float]:
    """Win rate, mean length and mean return of `BATTLES` battles."""
    reset_key, key = jax.random.split(jax.random.PRNGKey(seed))
    state = env.reset(reset_key, BATTLES)
    blank = jnp.zeros(BATTLES)
    worlds = Worlds(state, blank > 0, blank.astype(jnp.int32), blank)
    won = over = blank > 0

    def step(carry: Any, time: Array) -> tuple[Any, None]:
        worlds, won, over = carry
        actions = script(name, env, worlds.env, env.observe(worlds.env).legal)
        state, outcome = env.step(jax.random.fold_in(key, time), worlds.env, actions)
        returns = worlds.returns + jnp.where(over, 0.0, outcome.reward)
        worlds = Worlds(state, over, worlds.time + ~over, returns)
        won |= outcome.won & ~over
        return (worlds, won, over | outcome.terminated | outcome.truncated), None

    (worlds, won, _), _ = jax.jit(
        lambda: jax.lax.scan(step, (worlds, won, over), jnp.arange(env.spec.episode_limit))
    )()
    return float(jnp.mean(won)), float(jnp.mean(worlds.time)), float(jnp.mean(worlds.returns))


def main(scenarios: list[str]) -> None:
    """Prints the table."""
    print("| scenario | script | smax: won | steps | return | smac: won | steps | return |")
    print("|---|---|---|---|---|---|---|---|")
    for scenario in scenarios or SMAC_SCENARIOS:
        for name in SCRIPTS:
            cells = [play(name, make(f"{rules}/{scenario}")) for rules in ("smax", "smac")]
            row = " | ".join(f"{won:.2f} | {steps:.0f} | {ret:.2f}" for won, steps, ret in cells)
            print(f"| {scenario} | {name} | {row} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
