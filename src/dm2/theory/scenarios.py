"""The small games that `dm2 theory converge` runs, each with an expert and a start.

The functions here build the games; `scenario` looks one up by its name.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dm2.errors import InputError
from dm2.theory.games import MarkovGame, random_games, random_policies
from dm2.theory.quantities import optimal_joint_policy

__all__ = ["SCENARIOS", "Scenario", "four_tile", "handshake", "lift", "scenario", "stag_hunt"]


class Scenario(NamedTuple):
    """A game, a deterministic expert team, and the policies from which imitation starts.

    Example:
        A game of your own with one state and two agents, whose experts take action 0 and action 1.

        >>> import numpy as np
        >>> from dm2.theory import MarkovGame, Scenario, converge
        >>> stay, unpaid = np.ones((1, 4, 1)), np.zeros((2, 1, 4))
        >>> game = MarkovGame(np.ones(1), stay, unpaid, np.array(0.5), actions=2)
        >>> expert = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> own = Scenario(game, expert, start=np.full((2, 1, 2), 0.5))
        >>> runs = converge(own)
        >>> bool(runs["turn by turn"].distance[-1] < 1e-3)
        True
    """

    game: MarkovGame
    """The game, not a batch."""
    expert: Float[np.ndarray, "K S A"]
    """The expert's policies, `[K, S, A]`."""
    start: Float[np.ndarray, "K S A"]
    """The policies before the first update, `[K, S, A]`."""


def _with_slip(ahead: np.ndarray, slip: float) -> np.ndarray:
    """Mixes distributions with the uniform one at weight `slip`; every state is then visited."""
    return (1 - slip) * ahead + slip / ahead.shape[-1]


def four_tile(on_a: int = 0, slip: float = 0.1, discount: float = 0.9) -> Scenario:
    """Builds the gridworld of Section 5: two agents on four tiles, at most one agent per tile.

    The tiles are A B in the upper row and C D in the lower. The 12 states are the ordered pairs of
    different tiles. The three actions are to stay, to move sideways, and to move up or down. If
    both agents would end on one tile, or would change places, both stay. The team earns 1 per step
    while agent `on_a` is on A and the other agent on D, the opposite tile. The expert brings them
    there.

    Args:
        on_a: The agent, 0 or 1, that the expert brings to tile A.
        slip: The probability that the next state is drawn uniformly from all states.
        discount: The discount factor `γ`.

    Returns:
        The game, its optimal team as the expert, and a uniform start.

    Raises:
        InputError: If `on_a` is neither 0 nor 1.
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
    """Builds a game with two conventions: two agents meet if they offer the same hand.

    In the state `greet` the hands count: action 0 offers the right hand and action 1 the left.
    Equal hands lead to the state `together`, different hands to the state `alone`. Both states last
    20 steps on average, whatever the agents do. The expert always plays 0. At the start the team
    offers the left hand with probability 0.9, and is uniform in the other states.

    The left hands are a trap: an agent that changes to the right hand alone moves the team to
    `alone`, a state that the expert hardly ever visits.

    Args:
        slip: The probability that a state is drawn uniformly from all states.
        discount: The discount factor `γ`.

    Returns:
        The game, the expert that offers right hands, and the start at left hands.
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
    """Builds a stag hunt: two hunters each choose a stag (action 0) or hares (action 1).

    The two states are hungry and fed. In the next step the hunters are fed with probability 0.9 if
    both hunt the stag, with probability 0.5 if both hunt hares, and with probability 0.1 otherwise.
    The expert hunts the stag. At the start the team hunts hares with probability 0.9.

    The visited states alone determine the expert, because nothing else feeds the hunters so often.
    Nevertheless no hunter can bring the visited states closer to the expert's by a change of its
    own.

    Args:
        discount: The discount factor `γ`.

    Returns:
        The game, its optimal team as the expert, and the start at hares.
    """
    fed = np.array([0.9, 0.1, 0.1, 0.5])
    ahead = np.stack([np.stack([1 - fed, fed], -1)] * 2)
    rewards = np.zeros((2, 2, 4))
    rewards[:, 1] = 1.0
    game = MarkovGame(np.array([0.5, 0.5]), ahead, rewards, np.array(discount), actions=2)
    start = np.broadcast_to(np.array([0.1, 0.9]), (2, 2, 2)).copy()
    return Scenario(game, optimal_joint_policy(game), start)


def lift(agents: int = 2, slip: float = 0.05, discount: float = 0.9) -> Scenario:
    """Builds a game in which agents lift a load together.

    The three states are the heights of the load. It rises by one height if all agents lift (action
    1), and falls to the ground otherwise. The team earns 1 per step at the top.

    Args:
        agents: The number `K` of agents.
        slip: The probability that the next state is drawn uniformly from all states.
        discount: The discount factor `γ`.

    Returns:
        The game, its optimal team as the expert, and a uniform start.
    """
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
"""The builder of each scenario by its name; it takes a seed."""


def scenario(name: str, seed: int = 0) -> Scenario:
    """Returns one of the built-in scenarios.

    Args:
        name: `four-tile`, `handshake`, `lift`, `stag-hunt` or `random`.
        seed: The seed of the game and the start of `random`; the others do not use it.

    Returns:
        The game, its expert and the start. A scenario unpacks into these three.

    Raises:
        InputError: If the name is unknown or the seed negative.

    Example:
        >>> from dm2.theory import scenario
        >>> game, expert, start = scenario("four-tile")
        >>> game.agents, game.states, game.actions
        (2, 12, 3)
        >>> expert.shape
        (2, 12, 3)
    """
    if name not in SCENARIOS:
        raise InputError(f"game = {name!r}: must be one of {', '.join(SCENARIOS)}")
    if seed < 0:
        raise InputError(f"seed = {seed}: must be 0 or more")
    return SCENARIOS[name](seed)
