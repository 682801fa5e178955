"""The network of one exported agent, in NumPy: what `dm2.agent` computes in JAX, for one step."""

# For the annotations see `dm2.deployment.file`.
from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dm2.deployment.file import Arrays

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Float

__all__ = ["CLIP", "LAYER_VARIANCE", "Layer", "Network"]

CLIP = 10.0
"""Standardised features lie within minus and plus this number."""
LAYER_VARIANCE = 1e-6
"""What is added to the variance over the features of an observation."""


class Layer(NamedTuple):
    """A layer is an affine map, `x W + b`."""

    kernel: Float[np.ndarray, "I H"]
    bias: Float[np.ndarray, " H"]

    def __call__(self, x: Float[np.ndarray, " I"]) -> Float[np.ndarray, " H"]:
        """`x W + b`."""
        return x @ self.kernel + self.bias


class Network(NamedTuple):
    """A network is an actor whose constants are folded: the first layer's bias holds the scale and
    the shift of layer norm and the agent's number. All numbers are float32."""

    mean: Float[np.ndarray, " O"] | None
    """Of each feature; None where features are not standardised."""
    inverse: Float[np.ndarray, " O"] | None
    """One over each feature's standard deviation."""
    layer: bool
    """Whether observations are brought to mean 0 and variance 1 over their features."""
    first: Layer
    """The first dense layer, of observations."""
    by_action: Float[np.ndarray, "A H"] | None
    """What the last action adds to the first layer; None where the network does not take it."""
    dense: tuple[Layer, ...]
    """The dense layers after the first."""
    gates: Layer
    """The input side of the memory's gates: reset, update, candidate."""
    recurrent: Float[np.ndarray, "H G"]
    """Their recurrent side, `G = 3 H`."""
    candidate_bias: Float[np.ndarray, " H"]
    """The bias of the recurrent side of the candidate."""
    head: Layer

    @classmethod
    def of(cls, description: dict[str, Any], arrays: Arrays) -> Network:
        """The network of the contents of a file; see `dm2.deployment.file`."""
        mean = inverse = None
        if description["running"]:
            mean, variance = arrays["moments/mean"], arrays["moments/variance"]
            least = np.square(np.float32(1e-6) * mean) + np.float32(1e-12)
            inverse = 1 / np.sqrt(variance + least)
        kernel, bias = _layer(arrays, "dense_0")
        scale, shift = arrays["dense_0/scale"], arrays["dense_0/shift"]
        bias = shift @ kernel + bias
        kernel = scale[:, None] * kernel
        size, actions = description["observation_size"], len(description["actions"])
        further = range(1, description["dense_layers"])
        if description["agents"]:
            bias = bias + kernel[description["agent"] - description["agents"]]
        return cls(
            mean=mean,
            inverse=inverse,
            layer=description["layer"],
            first=Layer(np.ascontiguousarray(kernel[:size]), bias),
            by_action=kernel[size : size + actions] if description["last_action"] else None,
            dense=tuple(_layer(arrays, f"dense_{n}") for n in further),
            gates=_layer(arrays, "gru_input"),
            recurrent=arrays["gru_weight"],
            candidate_bias=arrays["gru_bias"],
            head=_layer(arrays, "head"),
        )

    def scaled(self, observation: Float[np.ndarray, " O"]) -> Float[np.ndarray, " O"]:
        """An observation on the scale that the first layer takes."""
        if self.mean is not None:
            observation = (observation - self.mean) * self.inverse
            observation = np.minimum(np.maximum(observation, -CLIP), CLIP)
        if self.layer:
            size = np.float32(len(observation))
            observation = observation - observation.sum() / size
            variance = observation @ observation / size
            observation = observation / np.sqrt(variance + np.float32(LAYER_VARIANCE))
        return observation

    def step(
        self,
        observation: Float[np.ndarray, " O"],
        memory: Float[np.ndarray, " H"],
        last_action: int,
    ) -> tuple[Float[np.ndarray, " H"], Float[np.ndarray, " A"]]:
        """One step of an episode.

        Args:
            observation: As the environment gives it.
            memory: The recurrent state; zeros where an episode begins.
            last_action: The agent's last action; -1 where an episode begins.

        Returns:
            The next memory, and an output for each action.
        """
        x = self.first(self.scaled(observation))
        if self.by_action is not None and last_action >= 0:
            x = x + self.by_action[last_action]
        x = np.maximum(x, 0.0)
        for layer in self.dense:
            x = np.maximum(layer(x), 0.0)
        memory = self._gru(self.gates(x), memory)
        return memory, self.head(memory)

    def _gru(
        self, inputs: Float[np.ndarray, " G"], memory: Float[np.ndarray, " H"]
    ) -> Float[np.ndarray, " H"]:
        """The recurrence of `dm2.agent.gru`."""
        size = len(memory)
        recurrent = memory @ self.recurrent
        gates = 0.5 + 0.5 * np.tanh(0.5 * (inputs[: 2 * size] + recurrent[: 2 * size]))
        inner = recurrent[2 * size :] + self.candidate_bias
        candidate = np.tanh(inputs[2 * size :] + gates[:size] * inner)
        return candidate + gates[size:] * (memory - candidate)


def _layer(arrays: Arrays, name: str) -> Layer:
    return Layer(arrays[f"{name}/kernel"], arrays[f"{name}/bias"])
