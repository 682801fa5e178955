"""Where a team meets its environment: rollouts to learn from, and whole episodes."""

from dm2.rollout.collect import RolloutState, begin, collect
from dm2.rollout.mixed import MixedTeam
from dm2.rollout.play import Outcome, Players, Recording, play
from dm2.rollout.stepping import Episodes, EpisodeTotals

__all__ = [
    "EpisodeTotals",
    "Episodes",
    "MixedTeam",
    "Outcome",
    "Players",
    "Recording",
    "RolloutState",
    "begin",
    "collect",
    "play",
]
