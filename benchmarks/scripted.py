"""Scripted teams under both rule sets: `python benchmarks/scripted.py [SCENARIO …]`; and their
battles as demonstrations: `python benchmarks/scripted.py record kite smac/3s_vs_3z FILE`. A FILE
that ends in `.csv` is a table of what was observed alone, as if somebody had filmed the team.

The table says, per scenario and script, how many of 256 battles are won, their mean length in steps
and their mean return, under `smax/` and under `smac/`; and how many are won under `smac/` with
other options. The scripts learn nothing, so that the table shows what the rules reward:

- closest: attack the closest enemy, walk to it if it is out of range;
- focus: everybody attacks the same enemy, the one closest to the team's centre;
- kite: as closest, but while the weapon cools walk away from enemies nearer than 4.

For recordings `kite:0.3` is the script of which every agent does something random in 30 % of its
steps.
"""

import argparse
import csv
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dm2.demos import Demonstrations
from dm2.envs import make
from dm2.envs.smac.scenarios import SCENARIOS
from dm2.errors import InputError
from dm2.rollout.stepping import random_legal

BATTLES, SAFE = 256, 4.0
SCRIPTS = ("closest", "focus", "kite")
OUTCOMES = ("won", "steps", "return")
OPTIONS = ("starts=varied", "numbers=liberty")


def script(name: str, env: Any, state: Any, legal: Array) -> Array:
    """The team's actions `[K, N]`."""
    smac = env.spec.name.startswith("smac/")
    stop, north, south, east, west, attack = (1, 2, 3, 4, 5, 6) if smac else (4, 0, 2, 1, 3, 5)
    frame, allies = env.frame(state), env.num_allies
    position: Array = frame.position
    alive: Array = frame.alive
    offset = position[None, allies:] - position[:allies, None]  # [K, M, 2, N]
    length: Array = jnp.linalg.norm(offset, axis=2)
    distance = jnp.where(alive[None, allies:], length, jnp.inf)
    closest = jnp.argmin(distance, axis=1)
    if name == "focus":
        living = alive[:allies, None]
        centre = jnp.sum(jnp.where(living, position[:allies], 0.0), 0) / jnp.sum(living, 0)
        spread: Array = jnp.linalg.norm(position[allies:] - centre, axis=1)
        one = jnp.argmin(jnp.where(alive[allies:], spread, jnp.inf), axis=0)
        target = jnp.broadcast_to(one, closest.shape)
    else:
        target = closest
    aim = jnp.take_along_axis(offset, target[:, None, None], axis=1)[:, 0]
    can = jnp.take_along_axis(legal, (attack + target)[..., None], axis=2)[..., 0]

    moves = jnp.array([north, south, east, west])
    headings = jnp.array([[0.0, 1], [0, -1], [1, 0], [-1, 0]])
    # Walking into the map's edge is legal in SMAX, and at two of its edges in SMAC.
    ahead = position[None, :allies] + headings[:, None, :, None]  # [moves, K, 2, N]
    on_map = (ahead >= 0) & (ahead < jnp.array(env.map_size)[:, None])
    open_moves = jnp.moveaxis(legal[..., moves], 2, 0) & jnp.all(on_map, axis=2)

    def walk(direction: Array) -> Array:
        gain = jnp.einsum("md,kdn->mkn", headings, direction)
        best = jnp.argmax(jnp.where(open_moves, gain, -jnp.inf), axis=0)
        return jnp.where(jnp.any(open_moves, axis=0), moves[best], stop)

    actions = jnp.where(can, attack + target, walk(aim))
    if name == "kite":
        flee = (state.units.cooldown[:allies] > 0) & (jnp.min(distance, axis=1) < SAFE)
        actions = jnp.where(flee, walk(-aim), actions)
    return jnp.where(alive[:allies], actions, jnp.argmax(legal, axis=2))


class Battles(NamedTuple):
    """What happened in `BATTLES` battles of a script; rows past a battle's length are padding."""

    observations: Array
    """`[T, K, N, O]`."""
    legal: Array
    alive: Array
    actions: Array
    won: Array
    length: Array
    returns: Array


def play(name: str, env: Any, seed: int = 0) -> Battles:
    """Play `BATTLES` battles of a script; `kite:0.3` does something random in 30 % of its steps."""
    name, _, noise = name.partition(":")
    reset_key, key = jax.random.split(jax.random.PRNGKey(seed))
    state, limit = env.reset(reset_key, BATTLES), env.spec.episode_limit
    zeros, no = jnp.zeros(BATTLES), jnp.zeros(BATTLES, bool)

    def step(carry: Any, time: Array) -> tuple[Any, tuple[Array, ...]]:
        state, won, over, length, returns = carry
        view = env.observe(state)
        actions = script(name, env, state, view.legal)
        now = jax.random.fold_in(key, time)
        if noise:
            some_key, act_key = jax.random.split(jax.random.fold_in(now, 1))
            some = jax.random.bernoulli(some_key, float(noise), actions.shape)
            actions = jnp.where(some, random_legal(act_key, view.legal), actions)
        state, outcome = env.step(now, state, actions)
        returns += jnp.where(over, 0.0, outcome.reward)
        won |= outcome.won & ~over
        length += ~over
        over |= outcome.terminated | outcome.truncated
        row = (view.observations, view.legal, view.alive, actions)
        return (state, won, over, length, returns), row

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(limit)))
    (_, won, _, length, returns), rows = run((state, no, no, zeros.astype(jnp.int32), zeros))
    return Battles(*rows, won=won, length=length, returns=returns)


def demonstrations(name: str, env: Any) -> Demonstrations:
    """A scripted team's battles as demonstrations."""
    battles, spec = jax.device_get(play(name, env)), env.spec
    observations, legal, alive, actions = (np.moveaxis(part, 2, 0) for part in battles[:4])
    provenance = {
        "environment": spec.name,
        "environment_version": spec.version,
        "num_actions": spec.num_actions,
        "episode_limit": spec.episode_limit,
        "method": f"script: {name}",
        "policy": "greedy",
    }
    outcome = {"returns": battles.returns, "won": battles.won}
    return Demonstrations.from_episodes(
        observations, alive, battles.length, provenance, actions=actions, legal=legal, **outcome
    )


def film(name: str, env: Any, path: str) -> None:
    """Writes a table of what a scripted team observed, for `dm2 demos import`."""
    battles, spec = jax.device_get(play(name, env)), env.spec
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        features = (f"obs_{i}" for i in range(spec.observation_size))
        table.writerow(["episode", "step", "agent", "alive", *features])
        for episode, agent in itertools.product(range(BATTLES), range(spec.num_agents)):
            for step in range(battles.length[episode]):
                at = step, agent, episode
                alive = int(battles.alive[at])
                table.writerow([episode, step, agent, alive, *battles.observations[at]])


def row(scenario: str, name: str) -> list[str]:
    """The cells of the table for one scenario and script."""
    cells = [scenario, name]
    for rules in ("smax", "smac"):
        battles = play(name, make(f"{rules}/{scenario}"))
        fields = (battles.won, battles.length, battles.returns)
        won, steps, score = (float(jnp.mean(field)) for field in fields)
        cells += [f"{won:.2f}", f"{steps:.0f}", f"{score:.2f}"]
    won = (play(name, make(f"smac/{scenario}?{option}")).won for option in OPTIONS)
    return cells + [f"{float(jnp.mean(share)):.2f}" for share in won]


def table(scenarios: list[str]) -> None:
    """Print the table."""
    columns = ["scenario", "script"]
    columns += [f"{rules}: {what}" for rules in ("smax", "smac") for what in OUTCOMES]
    columns += [f"smac?{option}: won" for option in OPTIONS]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for scenario in scenarios or SCENARIOS:
        for name in SCRIPTS:
            print(f"| {' | '.join(row(scenario, name))} |", flush=True)


def record(name: str, env_name: str, path: str) -> None:
    """Keeps a script's battles, as a table or as demonstrations.

    Raises:
        InputError: no such script or environment, or a share of random steps beyond 0 to 1.
    """
    plain, _, noise = name.partition(":")
    if plain not in SCRIPTS:
        raise InputError(f"SCRIPT = {name!r}: must begin with one of {', '.join(SCRIPTS)}")
    try:
        share = float(noise or 0)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise InputError(f"SCRIPT = {name!r}: what follows the colon must be from 0 to 1")
    env = make(env_name)
    if path.endswith(".csv"):
        film(name, env, path)
    else:
        demonstrations(name, env).save(path)


def main() -> None:
    """Print the table, or keep a script's battles, as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [-h] [SCENARIO ...]\n       %(prog)s [-h] record SCRIPT ENV FILE",
    )
    parser.add_argument("words", nargs="*", metavar="SCENARIO", help="all, by default")
    words = parser.parse_args().words
    if words[:1] != ["record"]:
        if unknown := [word for word in words if word not in SCENARIOS]:
            parser.error(f"SCENARIO = {unknown[0]!r}: must be one of {', '.join(SCENARIOS)}")
        table(words)
        return
    if len(words) != 4:
        parser.error("record: needs SCRIPT, ENV and FILE")
    try:
        record(*words[1:])
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
