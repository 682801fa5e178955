"""One exported agent that acts: NumPy alone, no JAX, one observation at a time."""

# For the annotations see `dm2.deployment.file`.
from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from dm2.deployment.file import read
from dm2.deployment.network import Network
from dm2.errors import InputError, Whole, as_whole

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float

__all__ = ["Agent"]


class Agent:
    """An agent that was exported by `dm2.export`, and acts from its own observations.

    It remembers its episode, so every copy of an environment takes an agent of its own.

    Example: one episode. `environment` stands for whatever shows the agent what it sees.

        agent = dm2.Agent.load("agent_0.safetensors")
        agent.reset()
        while not environment.over:
            environment.act(agent.act(environment.observation, environment.legal))
    """

    def __init__(self, description: dict[str, Any], network: Network, seed: int | None) -> None:
        self.description = description
        """What the file says of the agent; see `dm2.deployment.file`."""
        self.action_names: tuple[str, ...] = tuple(description["actions"])
        """What each action means."""
        self._network = network
        self._seed = seed
        self._random: np.random.Generator | None = None
        self.reset()

    @classmethod
    def load(cls, file: str | os.PathLike[str], seed: Whole | None = None) -> Agent:
        """Reads an agent that `dm2.export` wrote.

        Args:
            file: The file.
            seed: Decides the actions that are sampled; by default they differ every time.

        Returns:
            The agent, at the start of an episode.

        Raises:
            InputError: If there is no such file, it is no agent's, it is damaged, or a newer dm2
                wrote it; or the seed is negative or no whole number.
        """
        seed = None if seed is None else as_whole("seed", seed, 0)
        description, arrays = read(file)
        return cls(description, Network.of(description, arrays), seed)

    def reset(self) -> None:
        """Begins an episode: the agent forgets the one before."""
        self._memory = np.zeros(self.description["hidden"], np.float32)
        self._last_action = -1

    def act(self, observation: Any, legal: Any = None, greedy: bool = True) -> int:
        """Chooses an action, and remembers the observation and the action.

        Args:
            observation: The agent's own observation `[O]`, numbers as the environment gives them.
            legal: Whether each action is legal, `[A]`, truth values or 0 and 1; by default all are.
            greedy: Whether to take the legal action with the largest output, the first of several;
                otherwise it is drawn with the probabilities of `probabilities`.

        Returns:
            The action's number; `action_names` says what it means.

        Raises:
            InputError: If the observation has another size or a number that is not finite, or no
                action is legal.
        """
        allowed = self._as_legal(legal)
        self._memory, outputs = self._step(observation)
        if greedy:
            action = int(np.argmax(np.where(allowed, outputs, -np.inf)))
        else:
            action = self._draw(self._distribution(outputs, allowed))
        self._last_action = action
        return action

    def outputs(self, observation: Any) -> Float[np.ndarray, " A"]:
        """What the network makes of an observation at this point of the episode: logits, or with
        QMIX, VDN and IQL values, of all actions, legal or not. The agent does not remember it.

        Args:
            observation: As of `act`.

        Raises:
            InputError: As of `act`.
        """
        return self._step(observation)[1]

    def probabilities(self, observation: Any, legal: Any = None) -> Float[np.ndarray, " A"]:
        """The probabilities with which `act` would draw an action here where it is not greedy. Of
        logits they are the softmax of the legal ones; of values those of the exploring agent in the
        run, who takes a random legal action with the probability `epsilon` of the description and
        the most valued one otherwise. The agent does not remember the observation.

        Args:
            observation: As of `act`.
            legal: As of `act`.

        Raises:
            InputError: As of `act`.
        """
        allowed = self._as_legal(legal)
        return self._distribution(self.outputs(observation), allowed)

    def _step(self, observation: Any) -> tuple[Any, Any]:
        """The memory after an observation, and the network's outputs."""
        observation = self._as_observation(observation)
        return self._network.step(observation, self._memory, self._last_action)

    def _distribution(
        self, outputs: Float[np.ndarray, " A"], legal: Bool[np.ndarray, " A"]
    ) -> Float[np.ndarray, " A"]:
        outputs = np.where(legal, outputs, -np.inf)
        share = self.description["epsilon"]
        if share is None:
            weights = np.exp(outputs - outputs.max())
            return weights / weights.sum()
        uniform = legal / legal.sum()
        best = np.arange(len(outputs)) == np.argmax(outputs)
        return (share * uniform + (1 - share) * best).astype(np.float32)

    def _draw(self, probabilities: Float[np.ndarray, " A"]) -> int:
        """An action; one of probability 0 is never drawn."""
        if self._random is None:  # numpy.random takes its time to import
            self._random = np.random.default_rng(self._seed)
        reached = np.cumsum(probabilities, dtype=np.float64)
        return int(np.searchsorted(reached, self._random.random() * reached[-1], side="right"))

    def _as_observation(self, observation: Any) -> Float[np.ndarray, " O"]:
        """The observation in float32. Raises InputError if it is none of the agent's."""
        size = self.description["observation_size"]
        given = _as_array("observation", observation)
        if given.shape != (size,):
            remedy = f"must be the {size} numbers that the agent sees in {self._environment}"
            raise InputError(f"observation: has shape {given.shape}; {remedy}")
        if given.dtype != np.float32:
            with np.errstate(over="ignore"):  # it is then infinite, and refused
                given = given.astype(np.float32)
        finite = np.isfinite(given)
        if not finite.all():
            feature = int(np.argmin(finite))
            problem = f"feature {feature} is {given[feature]} as a 32-bit float"
            raise InputError(f"observation: {problem}; must be finite")
        return given

    def _as_legal(self, legal: Any) -> Bool[np.ndarray, " A"]:
        """The legal actions. Raises InputError if there is none or they are not the agent's."""
        size = len(self.action_names)
        if legal is None:
            return np.ones(size, bool)
        given = _as_array("legal", legal)
        if given.shape != (size,):
            remedy = f"must be one truth value for each of the {size} actions"
            raise InputError(f"legal: has shape {given.shape}; {remedy}")
        allowed = given.astype(bool)
        if given.dtype != bool and (given != allowed).any():
            raise InputError(f"legal = {given.tolist()}: must be truth values, or 0 and 1")
        if not allowed.any():
            raise InputError("legal: no action is legal; a dead agent need not act")
        return allowed

    @property
    def _environment(self) -> str:
        return self.description["environment"]


def _as_array(field: str, value: Any) -> np.ndarray:
    """An array of real numbers or truth values. Raises InputError if it is none."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        array = None
    if array is None or array.dtype.kind not in "biuf":
        kind = "a ragged list" if array is None else f"of type {array.dtype}"
        raise InputError(f"{field}: is {kind}; must be an array of numbers")
    return array
