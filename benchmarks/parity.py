"""How far our SMAX is from JaxMARL's: `python benchmarks/parity.py [STATES]`.

Worst absolute difference by quantity and scenario after one step from random states, with the same
orders and random numbers; with safe walls for scenarios in even, lethal in odd places.
"""

import sys

from dm2.envs.battle.scenarios import SCENARIOS
from reference import differences


def main(states: int) -> int:
    """Prints the report; returns 1 if anything differs by more than 1e-5."""
    worst = 0.0
    for place, scenario in enumerate(SCENARIOS):
        found = differences(scenario, place % 2 == 1, states, seed=place)
        largest = max(found.values())
        worst = max(worst, largest)
        off = ", ".join(f"{name} {value:.1e}" for name, value in found.items() if value > 0)
        print(
            f"{scenario:<16} {states} states  worst {largest:.1e}  ({off or 'all equal'})",
            flush=True,
        )
    print(f"{'all':<16} worst {worst:.1e}")
    return int(worst > 1e-5)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
