"""The house: which module may import which, and what decentralised learning can reach."""

import ast
import builtins
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dm2
from dm2.methods import METHODS, Settings
from dm2.methods.base import Method

PACKAGE = Path(dm2.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = (
    "cores errors lazy version",
    "files",
    "deployment",
    "figures",
    "compilation",
    "agent",
    "envs",
    "demos",
    "methods.base",
    "methods.independent methods.on_policy",
    "methods.ippo",
    "methods.dm2 methods.sil",
    "methods.bc",
    "methods.centralised",
    "methods",
    "rollout",
    "config",
    "run",
    "studies theory",
    "bench",
    "cli",
    "__init__ __main__",
)
"""From the ground up. A module imports from its own part and from layers below."""


def part_of(name: str) -> str:
    """The part of the house that a dotted module name belongs to."""
    parts = [part for layer in LAYERS for part in layer.split()]
    inside = name.removeprefix("dm2").removeprefix(".") or "__init__"
    fitting = [part for part in parts if f"{inside}.".startswith(f"{part}.")]
    assert fitting, f"{name} is on no layer: say where it belongs"
    return max(fitting, key=len)


def level(part: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if part in layer.split())


def module_name(path: Path) -> str:
    parts = ("dm2", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, wherever in it, relative ones made absolute."""
    package = module_name(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, node.module] if node.module else base
            yield from (".".join([*base, alias.name]) for alias in node.names)


def module_of(name: str) -> str | None:
    """The module of this package that an imported name stands for or lies in."""
    while name not in MODULES and "." in name:
        name = name.rpartition(".")[0]
    return name if name in MODULES else None


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downwards(name):
    own = part_of(name)
    for imported in imports(MODULES[name]):
        module = module_of(imported)
        if module is None:
            continue
        other = part_of(module)
        assert own == other or level(other) < level(own), f"{name} imports {imported}"


BY_NAME = {"builtins", "importlib", "pkgutil", "runpy", "sys"}


@pytest.mark.parametrize("name", dm2.__all__)
def test_what_a_public_name_is_said_to_raise_is_public(name):
    said = inspect.getdoc(getattr(dm2, name)) or ""
    for error in re.findall(r"^ *(\w+Error): ", said, re.MULTILINE):
        assert error in dm2.__all__ or hasattr(builtins, error)


def test_every_module_of_one_agent_is_self_contained():
    """Neither agents nor their map can import anything by a name made up at run time."""
    for name in MODULES:
        if part_of(name) in ("agent", "methods.independent"):
            path = MODULES[name]
            assert not {x.split(".")[0] for x in imports(path)} & BY_NAME, path
            called = {
                n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)
            }
            assert not called & {"__import__", "eval", "exec"}, path


def reachable(*roots: str) -> set[str]:
    """Modules of the package that these import, directly or not."""
    found: set[str] = set()
    todo = list(roots)
    while todo:
        module = module_of(todo.pop())
        if module is not None and module != "dm2" and module not in found:
            found.add(module)
            todo += imports(MODULES[module])
    return found


def test_decentralised_learning_reaches_one_agents_code_and_nothing_that_joins_agents():
    found = reachable("dm2.methods.independent", "dm2.agent.cloning")
    parts = {part_of(module) for module in found}
    assert {"dm2.agent.learner", "dm2.agent.discriminator", "dm2.compilation"} <= found
    # Not a list of what is forbidden, which a new module would escape, but of all that is there.
    assert parts == {"methods.independent", "agent", "compilation", "errors"}
    # Nor is anything in those parts that would join agents: these are all modules of one agent.
    agent = {name.removeprefix("dm2.agent.") for name in found if part_of(name) == "agent"}
    learning = "learner ppo returns value_scale packing discriminator demonstrations inputs"
    learning += " cloning episodes learning_reward mixed_reward self_imitation"
    basic = "actor networks gru settings state types"
    assert agent - {"dm2.agent"} == {*learning.split(), *basic.split()}


DECENTRALISED = ("ippo", "dm2", "gail", "sil", "bc")


def test_what_is_centralised_is_out_of_reach_of_the_decentralised_methods():
    named = {name for name, settings in METHODS.items() if not _built(settings).centralised}
    assert named == set(DECENTRALISED)
    modules = {METHODS[name].__module__ for name in DECENTRALISED}
    found = {part_of(module) for module in reachable(*modules)}
    assert "methods.independent" in found
    assert not found & {"methods.centralised", "methods", "rollout", "run", "config"}


def _built(settings: type[Settings]) -> Method:
    return settings().build(dm2.make("smax/3m").spec, 4)


@pytest.mark.parametrize("name", ["agent", "independent", "ippo", "dm2"])
def test_what_joins_agents_is_unreachable_from_decentralised_methods(name):
    roots = [f"dm2.methods.{name}"]
    if name == "agent":
        roots = [module for module in MODULES if part_of(module) == "agent"]
    found = reachable(*roots)
    assert set(roots) <= found
    assert not [module for module in found if part_of(module) == "methods.centralised"]
    # It is there to be reached.
    assert "dm2.methods.centralised.qlearning" in reachable("dm2.methods")


@pytest.mark.parametrize("settings", METHODS.values(), ids=METHODS)
def test_only_a_centralised_method_can_be_handed_the_global_state(settings):
    method = _built(settings)
    for function in (method.act, method.bootstrap):
        takes = "global_state" in inspect.signature(function).parameters
        assert takes == method.centralised
