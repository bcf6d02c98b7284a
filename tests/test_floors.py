"""The floors of the house: no module imports one that stands above it, in Rust and in Python.

An arrow `a -> b c` in the plans below allows `a` to import `b`, `c` and whatever these may import.
Every other import fails, and so does a module that stands in no plan. ARCHITECTURE.md draws the
same.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module is a folder or file right under `src`.
CORE = """
    lib -> channel objects
    channel -> arena sync
    objects -> arena sync cells
    arena cells -> layout
    layout sync -> overlays
    overlays -> facade
    facade -> sys
    sys -> error deadline fault
"""

BINDINGS = """
    lib -> specialize asynchronous batch connection broadcast starting bootstrap
    starting -> blocking
    bootstrap -> requeue errors once
    batch -> queue
    queue -> requeue
    asynchronous -> queue connection
    specialize -> sharedctypes queue
    sharedctypes -> synchronize
    synchronize -> capi handles
    queue connection broadcast -> handles closing
    queue connection broadcast -> capi
    handles -> message capi
    message -> descriptor blocking
    capi -> blocking
    descriptor blocking -> errors
    errors -> once
"""

PACKAGE = """
    __main__ -> command
    command -> running doctor unchanged start_method
    doctor -> doctor_probes doctor_limits
    __init__ -> unchanged
    __init__ -> context exceptions dummy heap reduction forkserver_main
    __init__ -> resource_sharer resource_tracker shared_memory spawn util
    context -> pool futures managers broadcast
    pool futures -> pools
    pools managers -> process
    broadcast -> handles exceptions
    process -> popen_fork popen_spawn popen_spawn_as_told popen_forkserver
    forkserver_main -> context popen_forkserver bootstrap
    popen_forkserver -> launching forkserver
    popen_spawn -> launching spawn_main
    popen_spawn_as_told -> popen queues
    launching -> popen pickling shared_tracker
    pickling -> picklers pickling_errors
    pickling_errors -> handles start_method
    forkserver -> popen queues shared_tracker lifelines
    popen_fork -> popen bootstrap queues lifelines start_method shared_tracker
    bootstrap -> threading_hook
    threading_hook -> _native
    lifelines -> _native
    spawn_main -> queues lifelines start_method shared_tracker deferred
    deferred shared_tracker -> on_import
    popen_spawn forkserver shared_tracker -> interpreters
    pools interpreters popen shared_tracker bootstrap -> noting
    noting -> _native
    queues -> synchronize sharedctypes connection queue_stats
    sharedctypes -> synchronize
    synchronize connection -> handles exceptions
    queues connection -> asynchronous
    asynchronous -> _native
    handles exceptions -> _native
"""

# Inside the core's rooms. A ring never waits, and what waits for a lock does it in one place.
ROOMS = {
    "channel": """
        queue pipe -> transport wait
        broadcast -> ring
        transport -> ring
        ring -> extents
        extents -> mapping_cache file front
    """,
    "sync": """
        condition -> condvar lock
        lock barrier robust_semaphore -> mutex
        broadcast -> turns mutex
        turns condvar robust_semaphore tasks custody -> waitset
        mutex event semaphore waitset condvar -> waiting probe
        waiting -> spin closings
    """,
    "sys": """
        lifelines -> starting
        starting -> socket fork
        liveness -> signs
        signs -> owner
        owner -> fork procfs pidfd
        hold_token -> lease verified_fd socket
        epoll -> socket
        lease -> mapping memfd
        twin -> mapping
        mapping -> streaming
        verified_fd -> memfd
        memfd socket -> limits
        memfd socket procfs starting -> standard
        limits -> fork
        mapping memfd socket -> miri
        miri -> futex
    """,
}
# A ring and the form of its records are one; so are a transport and what it tells of room.
ONE_ROOM = {"format": "ring", "writable": "transport"}

# What the core shows only to its own: offsets and layouts are no business of the bindings.
HIDDEN_FROM_BINDINGS = {"layout", "overlays", "arena"}


def allowed(plan: str) -> dict[str, set[str]]:
    """What each module may import, by way of others too."""
    direct: dict[str, set[str]] = {}
    for line in plan.strip().splitlines():
        above, below = (half.split() for half in line.split("->"))
        for name in above:
            direct.setdefault(name, set()).update(below)
        for name in below:
            direct.setdefault(name, set())

    def reach(name: str, path: tuple[str, ...] = ()) -> set[str]:
        assert name not in path, f"the plan itself goes in a circle: {path}"
        return direct[name].union(*(reach(below, (*path, name)) for below in direct[name]))

    return {name: reach(name) for name in direct}


Arrow = tuple[str, str, str]
"""From, to, and where it stands."""


def upward(arrows: Iterator[Arrow], plan: str) -> list[str]:
    """The arrows that the plan does not have."""
    floors = allowed(plan)
    wrong = []
    for above, below, where in arrows:
        if above not in floors or below not in floors:
            stranger = below if above in floors else above
            wrong.append(f"{where}: {stranger} stands on no floor")
        elif above != below and below not in floors[above]:
            wrong.append(f"{where}: {above} -> {below} goes up")
    return wrong


# --- Rust ---

NO_CODE = re.compile(
    r"""
    //[^\n]* | /\*.*?\*/                        # comments
    | b?"(?:\\.|[^"\\])*" | r\#"(?:.*?)"\#      # strings
    | '(?:\\[^\n]{1,8}?|[^\\'\n])'              # characters; not a lifetime
    """,
    re.VERBOSE | re.DOTALL,
)
ONLY_FOR_DOCS = re.compile(r"#\[cfg\(doc\)\]\s*use\b[^;]*;")
TOKEN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|::|\S")


def blanked(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def tokens(source: str) -> list[tuple[str, int]]:
    """Each token of the code with its line."""
    code = ONLY_FOR_DOCS.sub(blanked, NO_CODE.sub(blanked, source))
    line, last, found = 1, 0, []
    for match in TOKEN.finditer(code):
        line += code.count("\n", last, match.start())
        last = match.start()
        found.append((match[0], line))
    return found


def heads(words: list[str], at: int) -> list[list[str]]:
    """The first two names of each path of the tree that starts at `at`, right behind a `::`."""
    if words[at] != "{":
        more = words[at + 1 : at + 2] == ["::"] and re.match(r"\w", words[at + 2])
        return [[words[at], words[at + 2]] if more else [words[at]]]
    found, depth, expected = [], 0, True
    while True:
        word = words[at]
        if word == "{":
            depth += 1
        elif word == "}":
            depth -= 1
            if depth == 0:
                return found
        elif word == "," and depth == 1:
            expected = True
        elif expected:
            found += heads(words, at)
            expected = False
        at += 1


def rust_paths(source: str, module: tuple[str, ...], crate: str) -> Iterator[tuple[list[str], int]]:
    """The paths into `crate` that the code of `module` names, from the crate's root on."""
    found = tokens(source)
    words = [word for word, _ in found]
    inner: list[str | None] = []
    """The braces that are open, those of modules by name."""
    for at, (word, line) in enumerate(found):
        before = words[at - 1] if at else ""
        if word == "{":
            inner.append(words[at - 1] if words[at - 2 : at - 1] == ["mod"] else None)
        elif word == "}":
            inner.pop()
        elif before == "::" or words[at + 1 : at + 2] != ["::"]:
            continue
        elif word in (crate, "super") and not (word == "crate" and before == "$"):
            start, base = at + 2, []
            if word == "super":
                here = [*module, *filter(None, inner)]
                base = here[:-1]
                while words[start] == "super":
                    base, start = base[:-1], start + 2
            for path in heads(words, start):
                yield base + path, line


def rust_files(src: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    for file in sorted(src.rglob("*.rs")):
        module = file.relative_to(src).with_suffix("").parts
        yield file, module[:-1] if module[-1] in ("mod", "lib") else module


def shown_at_root(src: Path) -> dict[str, str]:
    """Names of the crate's root that are a module's: what it re-exports, and the macros."""
    shown = {}
    for file, module in rust_files(src):
        text = file.read_text()
        if not module:
            for match in re.finditer(r"pub use (\w+)::(\w+);", text):
                shown[match[2]] = match[1]
            for match in re.finditer(r"pub use (\w+)::\{([^}]*)\};", text):
                shown |= dict.fromkeys(re.findall(r"\w+", match[2]), match[1])
        else:
            for match in re.finditer(r"macro_rules!\s*(\w+)|pub\(crate\) use (\w+);", text):
                shown.setdefault(match[1] or match[2], module[0])
    return shown


def rust_arrows(src: Path) -> Iterator[Arrow]:
    shown = shown_at_root(src)
    for file, module in rust_files(src):
        above = module[0] if module else "lib"
        yield above, above, f"{file.relative_to(src)}"
        for path, line in rust_paths(file.read_text(), module, "crate"):
            yield above, shown.get(path[0], path[0]), f"{file.relative_to(src)}:{line}"


def inner_arrows(src: Path, room: str) -> Iterator[Arrow]:
    """The arrows between the files and folders of a room."""
    for file, module in rust_files(src):
        if module[:1] != (room,) or len(module) < 2:
            continue
        above = ONE_ROOM.get(module[1], module[1])
        yield above, above, f"{file.relative_to(src)}"
        for path, line in rust_paths(file.read_text(), module, "crate"):
            if path[0] == room and len(path) > 1 and path[1].islower():
                yield above, ONE_ROOM.get(path[1], path[1]), f"{file.relative_to(src)}:{line}"


# --- Python ---


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """What is imported at run time, in functions too: names with their dots, and the line."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                yield base if base.strip(".") not in ("", "fastmp") else f"{base}.{alias.name}", node.lineno
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(("import_module", "__import__"))
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value), node.lineno
        yield from imports(node)


def python_arrows(package: Path) -> Iterator[Arrow]:
    modules = {file.stem for file in package.glob("*.py*")} | {
        folder.name for folder in package.iterdir() if (folder / "__init__.py").exists()
    }
    for file in sorted(package.rglob("*.py")):
        above = file.relative_to(package).with_suffix("").parts[0]
        yield above, above, file.name
        for name, line in imports(ast.parse(file.read_text())):
            inner = re.match(r"(?:\.+|fastmp\.+)(\w+)", name)
            if inner and inner[1] in modules:
                yield above, inner[1], f"{file.relative_to(package)}:{line}"


# --- The house as it is ---


def test_the_core_imports_nothing_upward() -> None:
    assert upward(rust_arrows(ROOT / "rust/core/src"), CORE) == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_the_core_imports_nothing_upward(room: str) -> None:
    assert upward(inner_arrows(ROOT / "rust/core/src", room), ROOMS[room]) == []


def test_the_bindings_import_nothing_upward() -> None:
    assert upward(rust_arrows(ROOT / "rust/py/src"), BINDINGS) == []


def test_the_package_imports_nothing_upward() -> None:
    assert upward(python_arrows(ROOT / "python/fastmp"), PACKAGE) == []


def test_the_bindings_know_no_layouts() -> None:
    src = ROOT / "rust/py/src"
    for file, module in rust_files(src):
        for name in ("fastmp_core", "fcore"):
            for path, line in rust_paths(file.read_text(), module, name):
                assert path[0] not in HIDDEN_FROM_BINDINGS, f"{file}:{line}: {'::'.join(path)}"


def test_what_sees_a_fork_knows_no_one() -> None:
    module = ("sys", "fork")
    paths = rust_paths((ROOT / "rust/core/src/sys/fork.rs").read_text(), module, "crate")
    assert [path for path, _ in paths if tuple(path[:2]) != module] == []


# Where bytes become types, and where C is called. A file more is a file more to audit.
UNSAFE = {
    "core": {"facade", "layout", "overlays", "sys/*"},
    "py": {
        *("capi/bound_method", "capi/call", "capi/construct"),
        *("closing", "descriptor", "message/channel_fds", "message/codec/*"),
        *(
            "message/framing",
            "bootstrap/borrowed",
            "message/interrupted",
            "message/lent",
            "message/pickler",
            "message/reducers",
            "sharedctypes/array",
            "sharedctypes/memory",
            "sharedctypes/scalar",
        ),
    },
}


@pytest.mark.parametrize("crate", UNSAFE)
def test_unsafe_code_stands_in_few_places(crate: str) -> None:
    src = ROOT / "rust" / crate / "src"
    found = {file.relative_to(src).with_suffix("") for file in src.rglob("*.rs") if "unsafe" in words(file)}
    assert {str(file) for file in found if not any(file.match(place) for place in UNSAFE[crate])} == set()


def words(file: Path) -> set[str]:
    return {word for word, _ in tokens(file.read_text())}


# --- The test itself, on trees that are made up ---


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


PLAN = "lib -> roof\nroof -> hall\nhall -> cellar"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cellar.rs", "use crate::roof::Tile;"),
        ("cellar.rs", "use crate::{hall, cellar};"),
        ("hall/door.rs", "use crate::{cellar::{Wine, Rack}, roof::{self}};"),
        ("hall/door.rs", "fn f() { crate::roof::mend(); }"),
        ("hall/mod.rs", "use super::roof;"),
        ("hall/door.rs", "use super::super::roof::Tile;"),
        ("hall/mod.rs", "mod imp { fn f<'a>(c: char) -> bool { c == '{' || super::super::roof::g(c) } }"),
        ("hall/mod.rs", "use crate::Tile;"),
        ("hall/mod.rs", "crate::tiles!();"),
        ("shed.rs", ""),
        ("hall/mod.rs", "use crate::shed;"),
    ],
)
def test_an_upward_arrow_in_rust_is_found(tmp_path: Path, name: str, text: str) -> None:
    sound = {
        "lib.rs": "pub mod roof; pub use roof::Tile;",
        "roof.rs": "use crate::hall::Door; macro_rules! tiles { () => {} }",
        "hall/mod.rs": "/* crate::roof */ pub mod door;",
        "hall/door.rs": '// crate::roof\nuse super::Hall; const A: &str = "crate::roof::x";',
        "cellar.rs": "#[cfg(doc)]\nuse crate::roof::Tile;\nuse self::wine; mod wine { use super::Rack; }",
    }
    assert upward(rust_arrows(tree(tmp_path, sound)), PLAN) == []
    wrong = upward(rust_arrows(tree(tmp_path, {name: text})), PLAN)
    assert len(wrong) == 1
    assert wrong[0].startswith(name)


def test_an_upward_arrow_inside_a_room_is_found(tmp_path: Path) -> None:
    plan = "door -> floor"
    sound = {
        "hall/mod.rs": "pub mod door; pub mod floor;",
        "hall/door.rs": "use crate::hall::floor::Board;",
        "hall/floor/mod.rs": "use super::SIZE; mod board;",
        "hall/floor/board.rs": "use super::Floor;",
    }
    assert upward(inner_arrows(tree(tmp_path, sound), "hall"), plan) == []
    for name in ("hall/floor/mod.rs", "hall/floor/board.rs"):
        wrong = {**sound, name: "use crate::hall::door::{self, Handle};"}
        assert upward(inner_arrows(tree(tmp_path, wrong), "hall"), plan) == [f"{name}:1: floor -> door goes up"]
        tree(tmp_path, sound)


@pytest.mark.parametrize(
    "text",
    [
        "from . import roof",
        "from .roof import tile",
        "import fastmp.roof",
        "from fastmp import roof",
        "from fastmp.roof import tile",
        "def f():\n    from . import cellar, roof",
        "import importlib\nimportlib.import_module('.roof', __package__)",
        "if True:\n    import fastmp.roof as r",
    ],
)
def test_an_upward_arrow_in_python_is_found(tmp_path: Path, text: str) -> None:
    sound = {
        "__init__.py": "from . import roof",
        "roof.py": "from . import hall\nfrom .cellar import wine",
        "hall.py": "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    from .roof import Tile\nimport os.path",
        "cellar.py": "from roof import tile",
    }
    plan = PLAN.replace("lib", "__init__")
    assert upward(python_arrows(tree(tmp_path, sound)), plan) == []
    assert upward(python_arrows(tree(tmp_path, {"hall.py": text})), plan) == [
        f"hall.py:{text.count(chr(10)) + 1 if 'if True' not in text and 'def' not in text else 2}: hall -> roof goes up"
    ]


def test_a_plan_that_goes_in_a_circle_is_refused() -> None:
    with pytest.raises(AssertionError, match="circle"):
        allowed("a -> b\nb -> c\nc -> a")
