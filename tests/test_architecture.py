"""House rules that a linter cannot know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("ringbuf", "codecs", "storage", "actors", "daemon")  # an arrow never points to the right
SANS_IO = ("ringbuf", "codecs")
# ringbuf waits on eventfds and locks files, but neither layer talks to a network or runs a loop
NETWORK = (
    "socket",
    "asyncio",
    "uvloop",
    "aiohttp",
    "picows",
    "requests",
    "urllib.request",
    "http",
    "websockets",
    "ssl",
)
CLOCKS = {"time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "datetime.now", "datetime.utcnow"}
TEXT_SUFFIXES = {".py", ".md", ".toml", ".service", ".html", ".js", ".css", ".cfg", ".yml", ".yaml", ""}
OUTSIDE_WORDS = re.compile(
    r"/work/|/root/|DESIGN\.md|STYLE\.md|contracts/(rest|ws|events|streams|exchanges|tables|servers)\.md"
)


def modules(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


def tracked_text() -> list[Path]:
    """Files that belong to the project, as git would list them in a clean clone."""
    skipped = {".git", ".venv", "build", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis", "results"}
    found = []
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if (
            path.is_file()
            and path.suffix in TEXT_SUFFIXES
            and not skipped & set(parts)
            and not parts[0].endswith(".egg-info")
        ):
            found.append(path)
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of every import, those inside functions too."""
    package = ("tickring", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield node.lineno, ".".join((*base, *([node.module] if node.module else [])))


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_never_point_up(layer):
    above = {f"tickring.{name}" for name in LAYERS[LAYERS.index(layer) + 1 :]}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(layer)
        for line, name in imports(path)
        if any(name == upper or name.startswith(upper + ".") for upper in above)
    ]
    assert not wrong


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_inside_the_package_are_relative(layer):
    bare = {"ringbuf", "codecs", "storage", "actors", "daemon", "tickring"}
    wrong = []
    for path in modules(layer):
        for node in ast.walk(parse(path)):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            wrong += [
                f"{path.relative_to(ROOT)}:{node.lineno} imports {name}" for name in names if name.split(".")[0] in bare
            ]
    # the standard library owns the name `codecs`; ours is only ever `..codecs`
    assert not wrong


@pytest.mark.parametrize("layer", LAYERS)
def test_package_imports_neither_tests_nor_benchmarks(layer):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(layer)
        for line, name in imports(path)
        if name.split(".")[0] in ("tests", "bench") or name.startswith(("tickring.tests", "tickring.bench"))
    ]
    assert not wrong


@pytest.mark.parametrize("layer", SANS_IO)
def test_lower_layers_do_no_network_and_run_no_loop(layer):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(layer)
        for line, name in imports(path)
        if any(name == module or name.startswith(module + ".") for module in NETWORK)
    ]
    assert not wrong


@pytest.mark.parametrize("layer", SANS_IO)
def test_lower_layers_read_no_clock(layer):
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} calls {ast.unparse(node.func)}"
        for path in modules(layer)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in CLOCKS
    ]
    assert not wrong


def test_counters_in_shared_memory_are_never_stored_by_pack_into():
    """`pack_into` clears the bytes before it packs, and another process does read that zero.

    A whole row into a slot that is claimed and not published yet is another matter: `row.pack_into` is allowed.
    """
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for layer in LAYERS
        for path in modules(layer)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Attribute) and node.attr == "pack_into" and ast.unparse(node.value) != "row"
    ]
    assert not wrong


def test_every_module_postpones_annotations():
    wrong = [
        str(path.relative_to(ROOT))
        for layer in LAYERS
        for path in modules(layer)
        if path.name != "__init__.py"
        and not any(
            isinstance(node, ast.ImportFrom) and node.module == "__future__" and node.names[0].name == "annotations"
            for node in parse(path).body
        )
    ]
    assert not wrong


def test_shared_memory_module_of_the_standard_library_is_not_used():
    """Before Python 3.13 its resource tracker unlinks what other processes still use."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for layer in LAYERS
        for path in modules(layer)
        for line, name in imports(path)
        if name.startswith("multiprocessing.shared_memory")
    ]
    assert not wrong


def test_project_speaks_of_no_machine_and_no_outside_paper():
    wrong = []
    for path in tracked_text():
        if path == Path(__file__).resolve():
            continue
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
            if OUTSIDE_WORDS.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number} {line.strip()[:80]}")
    assert not wrong
