"""The computations of `dm2 theory converge`: Algorithm 2 on one game, in both orders of updates."""

import dataclasses
from typing import Any

from dm2.errors import InputError
from dm2.theory import quantities
from dm2.theory.algorithm import Algorithm, History, run
from dm2.theory.scenarios import Scenario
from dm2.theory.verdict import REACHED

__all__ = ["bound_top", "converge", "summary"]

TURNS, TOGETHER = "turn by turn", "simultaneous"


def converge(scenario: Scenario, settings: Algorithm | None = None) -> dict[str, History]:
    """Runs Algorithm 2 twice from the same start: agents in turn, and all agents simultaneously.

    Args:
        scenario: The game, the expert and the start.
        settings: The settings of the algorithm; by default `Algorithm()`. Their `simultaneous` has
            no effect.

    Returns:
        The two runs, under the names `turn by turn` and `simultaneous`.

    Raises:
        InputError: If the expert or the start does not fit the game, or if the reward form needs
            smoothing and has none.

    Example:
        The handshake is a counter-example to Theorem 2. With `myopic` steps the expert is reached.

        >>> from dm2.theory import Algorithm, converge, scenario, summary
        >>> runs = converge(scenario("handshake"))
        >>> {name: summary(history)["reached_expert"] for name, history in runs.items()}
        {'turn by turn': False, 'simultaneous': False}
        >>> runs = converge(scenario("handshake"), Algorithm(myopic=True))
        >>> {name: summary(history)["reached_expert"] for name, history in runs.items()}
        {'turn by turn': True, 'simultaneous': True}
    """
    game, expert, start = scenario
    settings = settings or Algorithm()
    return {
        name: run(game, expert, start, dataclasses.replace(settings, simultaneous=order))
        for name, order in ((TURNS, False), (TOGETHER, True))
    }


def bound_top(scenario: Scenario) -> float:
    """The largest possible `L_ε`, which is `ε S K` (Observation 1).

    Args:
        scenario: A game with its expert and start. The value depends on the game alone.

    Returns:
        `ε S K`, where `ε` is the least visitation of any state under any joint policy.
    """
    game = scenario.game
    return float(quantities.visitation_bounds(game)[0].min()) * game.states * game.agents


def summary(history: History) -> dict[str, Any]:
    """Summarises a run of Algorithm 2 on one game.

    Args:
        history: The run, of one game and not of a batch.

    Returns:
        A dictionary of plain values. `sweeps` is the number of sweeps, `converged` and
        `reached_expert` are true or false, and `distance_to_expert` is the last distance. For each
        of `J`, `L` and `L_eps` there are `…_first`, `…_last`, `…_highest`, and `…_falls`, the
        number of updates that lowered it. `mismatch` is the last distance of each agent's marginal
        from its target.

    Raises:
        InputError: If the history is that of a batch.
    """
    if history.joint.ndim != 1:
        raise InputError("history: holds a batch of games; take one")
    found: dict[str, Any] = {
        "sweeps": (len(history.joint) - 1) // history.updates_per_sweep,
        "converged": bool(history.converged),
        "reached_expert": bool(history.distance[-1] < REACHED),
        "distance_to_expert": float(history.distance[-1]),
    }
    for name, values in (("J", history.joint), ("L", history.individual), ("L_eps", history.bound)):
        found[f"{name}_first"], found[f"{name}_last"] = float(values[0]), float(values[-1])
        found[f"{name}_highest"] = float(values.max())
        found[f"{name}_falls"] = int((values[1:] < values[:-1] - 1e-9).sum())
    found["mismatch"] = [float(x) for x in history.mismatch[-1]]
    return found
