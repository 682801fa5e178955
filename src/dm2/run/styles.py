"""The styles of demonstrations that the paper compares in its Figure 3."""

from typing import Literal

__all__ = ["DISJOINT", "MIXED", "STYLES", "Style"]

Style = Literal[
    "co-trained-concurrent",
    "co-trained-disjoint",
    "mixed-concurrent",
    "mixed-same-indices",
    "mixed-disjoint",
]

STYLES: dict[Style, str] = {
    "co-trained-concurrent": "one run; all agents from the same joint episodes, as `dm2 record`",
    "co-trained-disjoint": "one run; every agent from joint episodes of its own, which no other "
    "agent has",
    "mixed-concurrent": "a run for each agent; agent k of the k-th run, all of them executed "
    "together in the same joint episodes",
    "mixed-same-indices": "a run for each agent; agent k from the recording of the k-th run's own "
    "team, all from episodes of the same indices (what the paper's authors' code calls concurrent)",
    "mixed-disjoint": "a run for each agent; agent k from the recording of the k-th run's own "
    "team, every agent from other indices",
}
"""What each style is: which runs it is made from, and which episodes every agent has."""

MIXED = ("mixed-concurrent", "mixed-same-indices", "mixed-disjoint")
"""The styles whose agents were not trained together."""

DISJOINT = ("co-trained-disjoint", "mixed-disjoint")
"""The styles in which no two agents' episodes have the same index."""
