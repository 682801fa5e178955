"""Does DM² help in other people's worlds, as each of them comes?

`cd examples && dm2 study run worlds.py`; it needs `pip install mpe2 lbforaging 'dm2[pettingzoo]'
'dm2[gymnasium]' 'dm2[jaxmarl]'`.
"""

from typing import NamedTuple

import dm2
from dm2.studies.products import Recording, training
from dm2.studies.scales import Scale
from dm2.studies.study import Claim, Curve, Study


class World(NamedTuple):
    """A world and how long its teams learn, in environment steps."""

    env: str
    steps: int
    expert_steps: int


WORLDS = (
    World("mpe2/simple_spread-v3?N=3&max_cycles=25", 300_000, 900_000),  # PettingZoo's interface
    World("gymnasium/lbforaging:Foraging-5x5-2p-1f-coop-v3", 150_000, 300_000),
    World("jaxmarl/MPE_simple_spread_v3", 300_000, 900_000),
    World("hunt:Hunt", 300_000, 600_000),  # a class in JAX, in this folder
    World("dm2.envs:SmacEnv?env=smac/3m", 120_000, 200_000),  # an object with SMAC's methods
)


def study(scale: Scale) -> Study:
    """IPPO and DM² in each world, with the default settings."""
    curves = []
    for env, steps, expert_steps in WORLDS:
        expert = training(dm2.IPPO(), env, steps=expert_steps, seed=100)
        demos = Recording((expert,), episodes=300)
        shape = {"steps": steps, "eval_every": steps // 15}
        for name, method, imitated in (("IPPO", dm2.IPPO(), None), ("DM²", dm2.DM2(), demos)):
            runs = tuple(
                training(method, env, demos=imitated, seed=seed, **shape)
                for seed in range(scale.seeds)
            )
            curves.append(Curve(name, runs))
    return Study(
        "worlds",
        "Other people's worlds",
        "Do IPPO and DM² learn in worlds of other interfaces, with the settings that they have, and"
        " does DM² learn faster?",
        tuple(curves),
        (Claim("DM² learns faster than IPPO.", "DM²", "IPPO", source="ours"),),
    )
