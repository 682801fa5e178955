"""Small games to read and to watch, each with an expert and a policy to start from."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dm2.errors import InputError
from dm2.theory.games import MarkovGame, random_games, random_policies
from dm2.theory.quantities import optimal_joint_policy

__all__ = ["SCENARIOS", "Scenario", "four_tile", "handshake", "lift", "scenario", "stag_hunt"]


class Scenario(NamedTuple):
    """A game, its deterministic expert, and the policies that imitation starts from."""

    game: MarkovGame
    expert: Float[np.ndarray, "K S A"]
    start: Float[np.ndarray, "K S A"]


def _with_slip(ahead: np.ndarray, slip: float) -> np.ndarray:
    """With probability `slip` the next state is any of them, so that all are visited."""
    return (1 - slip) * ahead + slip / ahead.shape[-1]


def four_tile(on_a: int = 0, slip: float = 0.1, discount: float = 0.9) -> Scenario:
    """Section 5's gridworld: two agents on tiles A B / C D, one agent a tile.

    The 12 states are the ordered pairs of different tiles, the actions: stay, move sideways,
    move up or down. Two that would end on one tile, or pass through each other, both stay. The
    expert brings agent `on_a` to A and the other to D, opposite, for the team reward of 1 a step
    there. Raises InputError unless `on_a` is 0 or 1.
    """
    if on_a not in (0, 1):
        raise InputError(f"on_a = {on_a!r}: the agent that stands on tile A, 0 or 1")
    places = [(i, j) for i in range(4) for j in range(4) if i != j]
    ahead = np.zeros((12, 9, 12))
    for s, (first, second) in enumerate(places):
        for a in range(3):
            for b in range(3):
                moved = (first ^ a, second ^ b)  # tiles 0 1 / 2 3: sideways flips bit 0
                blocked = moved[0] == moved[1] or moved == (second, first)
                after = (first, second) if blocked else moved
                ahead[s, 3 * a + b, places.index(after)] = 1.0
    rewards = np.zeros((2, 12, 9))
    rewards[:, places.index((0, 3) if on_a == 0 else (3, 0))] = 1.0
    game = MarkovGame(
        np.full(12, 1 / 12), _with_slip(ahead, slip), rewards, np.array(discount), actions=3
    )
    return Scenario(game, optimal_joint_policy(game), np.full((2, 12, 3), 1 / 3))


def handshake(slip: float = 0.01, discount: float = 0.95) -> Scenario:
    """Two conventions: both offer the right hand (action 0) or both the left (1), and they meet.

    States: `greet`, where the hands count; `together` and `alone`, which last 20 steps on average
    whatever anybody does. Hands that agree lead to `together`, hands that do not to `alone`. The
    expert plays 0 always; the team starts out offering the left hand with probability 0.9, and
    uniform elsewhere. Each agent alone sees that a right hand leaves it alone, where the expert
    hardly ever is: the other convention is a trap.
    """
    stay = 0.95
    ahead = np.zeros((3, 4, 3))
    ahead[0, [0, 3], 1] = ahead[0, [1, 2], 2] = 1.0
    for state in (1, 2):
        ahead[state, :, state], ahead[state, :, 0] = stay, 1 - stay
    rewards = np.zeros((2, 3, 4))
    rewards[:, 1] = 1.0
    initial = _with_slip(np.array([1.0, 0.0, 0.0]), slip)
    game = MarkovGame(initial, _with_slip(ahead, slip), rewards, np.array(discount), actions=2)
    expert = np.zeros((2, 3, 2))
    expert[..., 0] = 1.0
    start = np.full((2, 3, 2), 0.5)
    start[:, 0] = 0.1, 0.9
    return Scenario(game, expert, start)


def stag_hunt(discount: float = 0.9) -> Scenario:
    """Two hunters, hungry or fed; the stag (action 0) takes both, a hare (1) is safe for both.

    Both after the stag are fed next with probability 0.9, both after hares with 0.5, and whoever
    goes alone spoils it: 0.1. The expert hunts the stag; the team starts at hares, with 0.9. The
    states alone pin the expert down (nothing else feeds so often), yet no hunter alone can make
    them more like the expert's.
    """
    fed = np.array([0.9, 0.1, 0.1, 0.5])
    ahead = np.stack([np.stack([1 - fed, fed], -1)] * 2)
    rewards = np.zeros((2, 2, 4))
    rewards[:, 1] = 1.0
    game = MarkovGame(np.array([0.5, 0.5]), ahead, rewards, np.array(discount), actions=2)
    start = np.broadcast_to(np.array([0.1, 0.9]), (2, 2, 2)).copy()
    return Scenario(game, optimal_joint_policy(game), start)


def lift(agents: int = 2, slip: float = 0.05, discount: float = 0.9) -> Scenario:
    """A load that rises one step of three if all lift (action 1) and falls to the ground if not."""
    joint = 2**agents
    ahead = np.zeros((3, joint, 3))
    ahead[:, :-1, 0] = 1.0
    for height in range(3):
        ahead[height, -1, min(height + 1, 2)] = 1.0
    rewards = np.zeros((agents, 3, joint))
    rewards[:, 2] = 1.0
    start = np.full((agents, 3, 2), 0.5)
    game = MarkovGame(
        np.full(3, 1 / 3), _with_slip(ahead, slip), rewards, np.array(discount), actions=2
    )
    return Scenario(game, optimal_joint_policy(game), start)


def _random(seed: int) -> Scenario:
    rng = np.random.default_rng(seed)
    game = random_games(1, 2, 4, 3, rng)[0]
    return Scenario(game, optimal_joint_policy(game), random_policies(game, rng))


SCENARIOS: dict[str, Callable[[int], Scenario]] = {
    "four-tile": lambda seed: four_tile(),
    "handshake": lambda seed: handshake(),
    "lift": lambda seed: lift(),
    "stag-hunt": lambda seed: stag_hunt(),
    "random": _random,
}


def scenario(name: str, seed: int = 0) -> Scenario:
    """A scenario by name; the seed matters to `random` alone.

    Raises InputError for other names and for a negative seed.
    """
    if name not in SCENARIOS:
        raise InputError(f"game = {name!r}: must be one of {', '.join(SCENARIOS)}")
    if seed < 0:
        raise InputError(f"seed = {seed}: must be 0 or more")
    return SCENARIOS[name](seed)
