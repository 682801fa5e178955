"""Joint episodes in padded arrays, as they are recorded, made into each agent's demonstrations."""

import numpy as np
from jaxtyping import Bool

from dm2.demos.agent import AgentDemonstrations
from dm2.demos.fields import Dtype, check
from dm2.errors import InputError

__all__ = ["check_shapes", "one_agent"]


def check_shapes(episodes: dict[str, np.ndarray]) -> None:
    """Checks that the arguments of `Demonstrations.from_episodes` fit together.

    Args:
        episodes: The arrays by the names of the arguments, without those that are None.

    Raises:
        InputError: If a shape or a length does not fit.
    """
    axes = {"observations": "E T K O", "alive": "E T K", "length": "E", "actions": "E T K"}
    axes |= {"legal": "E T K A", "returns": "E", "won": "E"}
    sizes: dict[str, int] = {}
    for name, array in episodes.items():
        letters = axes[name].split()
        fits = [sizes.setdefault(x, n) == n for x, n in zip(letters, array.shape, strict=False)]
        ok = array.ndim == len(letters) and all(fits)
        check(ok, f"{name} has shape {array.shape}", f"must be [{axes[name]}] with {sizes}")
        whole = name not in ("length", "actions") or array.dtype.kind in "iu"
        check(whole, f"{name} is {array.dtype}", "must be integers")
    for e, length in enumerate(episodes["length"]):
        remedy = f"must be from 1 to {sizes['T']} steps"
        check(1 <= length <= sizes["T"], f"length[{e}] = {length}", remedy)


def one_agent(
    episodes: dict[str, np.ndarray], keep: Bool[np.ndarray, "E T"], k: int, dtype: Dtype
) -> tuple[AgentDemonstrations, float]:
    """Takes one agent's demonstrations out of joint episodes.

    Args:
        episodes: The arrays, as `check_shapes` accepts them.
        keep: Whether each step lies before the end of its episode, `[E, T]`.
        k: The index of the agent.
        dtype: The type in which observations are stored.

    Returns:
        The demonstrations, and the largest error of rounding an observation to `dtype`. Where the
        agent is dead, 0 stands in place of a number that overflows it, which means nothing.

    Raises:
        InputError: If a value of the living overflows `dtype` or an action int32,
            or if `AgentDemonstrations` rejects the arrays.
    """
    parts = {n: a[:, :, k][keep] for n, a in episodes.items() if a.ndim >= 3}
    parts |= {n: a for n, a in episodes.items() if n in ("returns", "won")}
    parts["offsets"] = np.concatenate([[0], np.cumsum(episodes["length"], dtype=np.int64)])
    exact = parts.pop("observations")
    with np.errstate(over="ignore"):
        parts["observations"] = exact.astype(dtype)
    beyond = np.isinf(parts["observations"]) & np.isfinite(exact)
    if beyond.any():
        living = parts["alive"][:, None]
        exact = np.where(beyond & ~living, 0, exact)
        parts["observations"] = np.where(beyond & ~living, 0, parts["observations"])
        beyond &= living
    if beyond.any():
        row, i = np.unravel_index(np.argmax(np.where(beyond, np.abs(exact), 0)), exact.shape)
        e, t = np.argwhere(keep)[row]
        problem = f"episode {e}, step {t}: observations reach {exact[row, i]:g}, above {dtype}"
        raise InputError(f"{problem}; use dtype float32, `--dtype float32`")
    if "actions" in parts:
        given = parts["actions"]
        parts["actions"] = given.astype(np.int32)
        wrong = parts["actions"] != given
        if wrong.any():
            e, t = np.argwhere(keep)[np.argmax(wrong)]
            problem = f"episode {e}, step {t}, agent {k}: actions = {given[np.argmax(wrong)]}"
            raise InputError(f"{problem}: must fit into int32; number actions from 0")
    if "returns" in parts:
        parts["returns"] = parts["returns"].astype(np.float32)
    agent = AgentDemonstrations(**parts)
    return agent, float(np.abs(exact - agent.observations).max())
