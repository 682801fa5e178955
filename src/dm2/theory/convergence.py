"""`dm2 theory converge`: Algorithm 2 on one game, turn by turn and all at once."""

import dataclasses
from typing import Any

from dm2.errors import InputError
from dm2.theory import quantities
from dm2.theory.algorithm import Algorithm, History, run
from dm2.theory.claims import REACHED
from dm2.theory.scenarios import Scenario

__all__ = ["bound_top", "converge", "summary"]

TURNS, TOGETHER = "turn by turn", "simultaneous"


def converge(scenario: Scenario, settings: Algorithm | None = None) -> dict[str, History]:
    """The same start in both orders; the settings' own order is disregarded."""
    game, expert, start = scenario
    settings = settings or Algorithm()
    return {
        name: run(game, expert, start, dataclasses.replace(settings, simultaneous=order))
        for name, order in ((TURNS, False), (TOGETHER, True))
    }


def bound_top(scenario: Scenario) -> float:
    """`ε S K` of a scenario's game, the most that `L_ε` can be."""
    game = scenario.game
    return float(quantities.visitation_bounds(game)[0].min()) * game.states * game.agents


def summary(history: History) -> dict[str, Any]:
    """The first and last values of a run, and how often the objectives fell on the way."""
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
