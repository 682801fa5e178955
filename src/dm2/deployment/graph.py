"""The network of one exported agent as an ONNX model, for runtimes that are not NumPy.

It takes `N` observations at once, of as many copies of the agent, one step of an episode each:

    observation   float32 [N, O], as the environment gives them
    memory        float32 [N, H], zeros where an episode begins
    last_action   int64 [N], -1 where an episode begins; only where the network takes it

and returns

    logits, or values   float32 [N, A], of all actions, legal or not
    next_memory         float32 [N, H]

The metadata has the agent's description, `dm2`, as its safetensors file has.
"""

import json
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dm2.deployment.file import Arrays
from dm2.deployment.network import LAYER_VARIANCE, MOST, Network

__all__ = ["as_onnx"]

_OPSET, _IR = 17, 8  # of 2022: what runtimes of today take


class _Graph:
    """The nodes and constants of a graph that grows by one operation at a time."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Any, kind: Any = np.float32) -> str:
        """A named constant."""
        array = np.ascontiguousarray(value, kind)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, operation: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """An operation; its result is called `out`, or by its place."""
        out = out or f"{operation.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [out], **attributes))
        return out


def as_onnx(description: dict[str, Any], arrays: Arrays) -> bytes:
    """The ONNX model of an agent.

    Args:
        description: the agent's; see `dm2.deployment.file`.
        arrays: its tensors.

    Returns:
        The serialised model, which was checked.
    """
    network, graph = Network.of(description, arrays), _Graph()
    x = _dense(graph, network, _scaled(graph, network, description["observation_size"]))
    memory = _memory(graph, network, x)
    head = [graph.constant(f"head_{name}", part) for name, part in network.head._asdict().items()]
    outputs = graph.add("Gemm", memory, *head, out=description["outputs"])
    hidden, actions = description["hidden"], len(description["actions"])
    of_float = {
        "observation": ["N", description["observation_size"]],
        "memory": ["N", hidden],
        outputs: ["N", actions],
        memory: ["N", hidden],
    }
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in of_float.items()
    ]
    inputs, results = values[:2], values[2:]
    if network.by_action is not None:
        inputs.append(helper.make_tensor_value_info("last_action", TensorProto.INT64, ["N"]))
    model = helper.make_model(
        helper.make_graph(graph.nodes, "agent", inputs, results, graph.constants),
        producer_name="dm2",
        producer_version=description["dm2_version"],
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
    )
    helper.set_model_props(model, {"dm2": json.dumps(description)})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _scaled(graph: _Graph, network: Network, size: int) -> str:
    """`Network.scaled`."""
    x = "observation"
    if network.mean is not None:
        x = graph.add("Sub", x, graph.constant("mean", network.mean))
        x = graph.add("Mul", x, graph.constant("inverse", network.inverse))
        x = graph.add("Clip", x, graph.constant("least", -MOST), graph.constant("most", MOST))
    if network.layer:
        ones, zeros = np.ones(size), np.zeros(size)
        affine = [graph.constant("layer_scale", ones), graph.constant("layer_shift", zeros)]
        x = graph.add("LayerNormalization", x, *affine, axis=-1, epsilon=LAYER_VARIANCE)
    return x


def _dense(graph: _Graph, network: Network, x: str) -> str:
    """The dense layers; a last action of -1 adds nothing."""
    if network.by_action is not None:
        actions = graph.constant("actions", np.arange(len(network.by_action)), np.int64)
        column = graph.constant("column", [1], np.int64)
        last = graph.add("Unsqueeze", "last_action", column)
        one_hot = graph.add("Cast", graph.add("Equal", last, actions), to=TensorProto.FLOAT)
        by_action = graph.add("MatMul", one_hot, graph.constant("by_action", network.by_action))
    for number, layer in enumerate((network.first, *network.dense)):
        kernel = graph.constant(f"dense_{number}_kernel", layer.kernel)
        x = graph.add("Gemm", x, kernel, graph.constant(f"dense_{number}_bias", layer.bias))
        if number == 0 and network.by_action is not None:
            x = graph.add("Add", x, by_action)
        x = graph.add("Relu", x)
    return x


def _memory(graph: _Graph, network: Network, x: str) -> str:
    """The recurrence. ONNX orders the gates update, reset, candidate, has a bias on both sides of
    each, and wants axes of time and of direction."""
    hidden = len(network.candidate_bias)
    nothing = np.zeros(2 * hidden)

    def gates(columns: np.ndarray) -> np.ndarray:
        reset, update, candidate = np.split(columns, 3, axis=-1)
        return np.concatenate([update, reset, candidate], axis=-1)

    bias = np.concatenate([gates(network.gates.bias), nothing, network.candidate_bias])
    weights = [
        graph.constant("gru_kernel", gates(network.gates.kernel).T[None]),
        graph.constant("gru_recurrent", gates(network.recurrent).T[None]),
        graph.constant("gru_bias", bias[None]),
    ]
    first = graph.constant("first_axis", [0], np.int64)
    time, before = (graph.add("Unsqueeze", name, first) for name in (x, "memory"))
    options = {"hidden_size": hidden, "linear_before_reset": 1}
    graph.nodes.append(
        helper.make_node("GRU", [time, *weights, "", before], ["", "after"], **options)
    )
    return graph.add("Squeeze", "after", first, out="next_memory")
