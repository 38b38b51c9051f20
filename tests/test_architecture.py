"""The direction of imports, what loads without the heavy libraries, and the size of things.

docs/architecture.md explains the rules that are checked here.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("data", "rlhf", "reward", "policy", "annotation_app")

# Package → what it may import of ours. The longest key that fits a module is its rule: the three
# inner packages of rlhf see no text, and nothing imports the commands.
OURS = {
    "data": ("data",),
    "rlhf": ("data", "rlhf"),
    "rlhf.model": ("data.durable", "data.errors", "rlhf.model"),
    "rlhf.engine": ("data.errors", "rlhf.engine", "rlhf.types"),
    "rlhf.generation": ("data.errors", "rlhf.generation", "rlhf.model", "rlhf.types"),
    "rlhf.cli": PACKAGES,
    "reward": ("data", "rlhf", "reward"),
    "policy": ("data", "rlhf", "reward", "policy"),
    "annotation_app": ("data", "annotation_app", "rlhf.plots"),
}
# Library → the only places that may import it.
THEIRS = {
    "ray": ("rlhf.actors", "rlhf.serving", "rlhf.cli"),
    "deepspeed": ("rlhf.engine.deepspeed_engine",),
    "streamlit": ("annotation_app",),
    "sentencepiece": ("data.tokenizer",),
    "sqlalchemy": ("annotation_app.ledger",),
    "torch": ("rlhf", "reward", "policy"),
}
# Arithmetic and rows: importable where Ray, DeepSpeed and Streamlit are not installed.
PURE = (
    "reward.losses",
    "reward.combine",
    "policy.ppo_math",
    "rlhf.types",
    "rlhf.generation.sampling",
    "rlhf.generation.batching",
)
HEAVY = ("ray", "deepspeed", "streamlit", "transformers", "sqlalchemy")

MAX_FILE, MAX_FUNCTION, P90_FUNCTION = 400, 60, 35


@dataclass(frozen=True)
class Source:
    """One file of the five packages."""

    path: Path
    module: str
    """Dotted name; of a package, the name of its folder."""
    tree: ast.Module

    @property
    def functions(self) -> Iterator[tuple[str, int]]:
        """Place and number of lines of every function and method."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                place = f"{self.path.relative_to(ROOT)}:{node.lineno} {node.name}"
                yield place, node.end_lineno - node.lineno + 1

    @property
    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and full name of everything imported, inside functions too."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}:{node.lineno}: relative import"
                yield from ((node.lineno, f"{node.module}.{a.name}") for a in node.names)


@cache
def sources() -> tuple[Source, ...]:
    found = []
    for path in sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Source(path, module, ast.parse(path.read_text(encoding="utf-8"))))
    assert len(found) > 50, "the packages were not found"
    return tuple(found)


def inside(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(place + ".") for place in places)


def broken_rules(source: Source) -> Iterator[str]:
    """Every import of a file that the tables above forbid."""
    rule = max((key for key in OURS if inside(source.module, (key,))), key=len)
    for line, name in source.imports:
        place = f"{source.path.name}:{line}: {source.module} imports {name}"
        library = name.split(".")[0]
        if library in PACKAGES:
            if not inside(name, OURS[rule]):
                yield f"{place}; {rule} may import {', '.join(OURS[rule])}"
            elif inside(name, ("rlhf.cli",)) and rule != "rlhf.cli":
                yield f"{place}; nothing imports the commands"
        elif library in THEIRS and not inside(source.module, THEIRS[library]):
            yield f"{place}; {library} belongs in {', '.join(THEIRS[library])}"


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    mine = [s for s in sources() if inside(s.module, (package,))]
    assert mine
    assert [line for source in mine for line in broken_rules(source)] == []


@pytest.mark.parametrize(
    ("module", "code", "expected"),
    [
        ("data.statistics", "from rlhf.types import Rollout", "data may import data"),
        ("rlhf.model.rope", "from data.schemas import Message", "rlhf.model may import"),
        ("rlhf.run", "import policy.ppo", "rlhf may import data, rlhf"),
        ("policy.ppo", "def f():\n    import ray", "ray belongs in"),
        ("policy.ppo", "from rlhf.cli.main import main", "nothing imports the commands"),
        ("annotation_app.app", "from rlhf.run import Run", "annotation_app may import"),
        ("data.dataset", "import torch.distributed as dist", "torch belongs in"),
    ],
)
def test_a_forbidden_import_is_found(module: str, code: str, expected: str) -> None:
    broken = list(broken_rules(Source(ROOT / "sample.py", module, ast.parse(code))))
    assert len(broken) == 1
    assert expected in broken[0]


def test_pure_modules_load_without_the_heavy_libraries() -> None:
    data = [s.module for s in sources() if inside(s.module, ("data",))]
    model = [s.module for s in sources() if inside(s.module, ("rlhf.model",))]
    code = "import importlib, sys\n" + "".join(
        f"importlib.import_module({module!r})\n" for module in [*data, *model, *PURE]
    )
    code += f"print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_the_data_package_loads_without_torch() -> None:
    modules = [s.module for s in sources() if inside(s.module, ("data",))]
    code = f"import sys\nfrom importlib import import_module\nlist(map(import_module, {modules}))\n"
    code += "print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.stdout.strip() == "False", result.stdout + result.stderr


def test_files_are_short() -> None:
    lengths = {s.path: len(s.path.read_text(encoding="utf-8").splitlines()) for s in sources()}
    too_long = {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > MAX_FILE}
    assert too_long == {}


def test_functions_are_short() -> None:
    lengths = dict(pair for source in sources() for pair in source.functions)
    assert {place: n for place, n in lengths.items() if n > MAX_FUNCTION} == {}
    p90 = sorted(lengths.values())[int(0.9 * len(lengths))]
    assert p90 <= P90_FUNCTION


def test_files_are_named_by_what_they_hold() -> None:
    vague = {"utils", "util", "helpers", "common", "misc"}
    assert [str(s.path) for s in sources() if s.path.stem in vague] == []


def test_importing_a_package_imports_nothing() -> None:
    for source in sources():
        if source.path.name == "__init__.py":
            docstring = ast.get_docstring(source.tree) is not None
            rest = source.tree.body[1:] if docstring else source.tree.body
            names = [node.targets[0] for node in rest if isinstance(node, ast.Assign)]
            only_all = [n.id for n in names if isinstance(n, ast.Name)] == ["__all__"]
            assert not rest or (len(rest) == 1 and only_all), source.path
