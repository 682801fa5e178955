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

from dm2.deployment.file import Arrays
from dm2.deployment.network import CLIP, LAYER_VARIANCE, Network

__all__ = ["as_onnx"]

_OPSET, _IR = 17, 8  # of 2022: what runtimes of today take


class _Graph:
    """The nodes and constants of a graph that grows by one operation at a time."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: Any, kind: Any = np.float32) -> str:
        """A named constant."""
        from onnx import numpy_helper

        array = np.asarray(value, kind, order="C")
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, operation: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """An operation; its last result is called `out`, or by its place. The GRU's first is not
        used."""
        from onnx import helper

        out = out or f"{operation.lower()}_{len(self.nodes)}"
        outputs = ["", out] if operation == "GRU" else [out]
        self.nodes.append(helper.make_node(operation, inputs, outputs, **attributes))
        return out

    def model(self, inputs: dict[str, list], outputs: dict[str, list], **settings: Any) -> Any:
        """The graph as a checked model, with the shapes of what goes in and comes out."""
        import onnx
        from onnx import TensorProto, helper

        def declared(shapes: dict[str, list]) -> list[Any]:
            whole = {"last_action": TensorProto.INT64}
            kinds = [(name, whole.get(name, TensorProto.FLOAT)) for name in shapes]
            return [helper.make_tensor_value_info(*kind, shapes[kind[0]]) for kind in kinds]

        model = helper.make_model(
            helper.make_graph(
                self.nodes, "agent", declared(inputs), declared(outputs), self.constants
            ),
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR,
            producer_name="dm2",
            **settings,
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def as_onnx(description: dict[str, Any], arrays: Arrays) -> bytes:
    """The ONNX model of an agent.

    Args:
        description: The agent's; see `dm2.deployment.file`.
        arrays: Its tensors.

    Returns:
        The serialised model, which was checked.
    """
    network, graph = Network.of(description, arrays), _Graph()
    x = _dense(graph, network, _scaled(graph, network, description["observation_size"]))
    memory = _memory(graph, network, x)
    head = [graph.constant(f"head_{name}", part) for name, part in network.head._asdict().items()]
    outputs = graph.add("Gemm", memory, *head, out=description["outputs"])
    hidden, size = description["hidden"], description["observation_size"]
    inputs: dict[str, list] = {"observation": ["N", size], "memory": ["N", hidden]}
    if network.by_action is not None:
        inputs["last_action"] = ["N"]
    results = {outputs: ["N", len(description["actions"])], memory: ["N", hidden]}
    model = graph.model(inputs, results, producer_version=description["dm2_version"])
    entry = model.metadata_props.add()
    entry.key, entry.value = "dm2", json.dumps(description)
    return model.SerializeToString()


def _scaled(graph: _Graph, network: Network, size: int) -> str:
    """`Network.scaled`."""
    x = "observation"
    if network.mean is not None:
        x = graph.add("Sub", x, graph.constant("mean", network.mean))
        x = graph.add("Mul", x, graph.constant("inverse", network.inverse))
        x = graph.add("Clip", x, graph.constant("least", -CLIP), graph.constant("most", CLIP))
    if network.layer:
        ones, zeros = np.ones(size), np.zeros(size)
        affine = [graph.constant("layer_scale", ones), graph.constant("layer_shift", zeros)]
        x = graph.add("LayerNormalization", x, *affine, axis=-1, epsilon=LAYER_VARIANCE)
    return x


def _dense(graph: _Graph, network: Network, x: str) -> str:
    """The dense layers."""
    for number, layer in enumerate((network.first, *network.dense)):
        kernel = graph.constant(f"dense_{number}_kernel", layer.kernel)
        x = graph.add("Gemm", x, kernel, graph.constant(f"dense_{number}_bias", layer.bias))
        if number == 0 and network.by_action is not None:
            x = graph.add("Add", x, _by_action(graph, network.by_action))
        x = graph.add("Relu", x)
    return x


def _by_action(graph: _Graph, kernel: np.ndarray) -> str:
    """What the last action adds: nothing where it is -1."""
    from onnx import TensorProto

    column = graph.constant("column", [1], np.int64)
    last = graph.add("Unsqueeze", "last_action", column)
    same = graph.add("Equal", last, graph.constant("actions", np.arange(len(kernel)), np.int64))
    one_hot = graph.add("Cast", same, to=TensorProto.FLOAT)
    return graph.add("MatMul", one_hot, graph.constant("by_action", kernel))


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
    options: dict[str, Any] = {"hidden_size": hidden, "linear_before_reset": 1}
    after = graph.add("GRU", time, *weights, "", before, **options)
    return graph.add("Squeeze", after, first, out="next_memory")
