"""What a signal handler raises leaves no block without its end: no lock held, no `finally` skipped.

In 3.14 a handler may come between a `with`'s `__enter__` and its block. And from 3.12 to 3.14 the
compiler leaves the jump by which a loop goes on from the middle of its body out of the block that the
loop stands in, so that an exception there is none of the block's. Nothing of the package may stand
so; on other versions there is nothing to find.
"""

import ast
import dis
import pathlib
import signal
import types

import fastmp
import pytest

PACKAGE = pathlib.Path(fastmp.__file__).parent


def codes(code):
    yield code
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from codes(each)


def ends_alike(block):
    """Is that block's end one that a signal handler's exception must come to?"""
    if isinstance(block, ast.Try):
        catches = [handler.type for handler in block.handlers]
        return bool(block.finalbody) or any(type_ is None or "BaseException" in ast.dump(type_) for type_ in catches)
    names = [ast.unparse(item.context_expr) for item in block.items]
    return not all(name.startswith("contextlib.suppress") for name in names)


def unguarded(source):
    """The lines of jumps that a block's end does not hear of."""
    blocks = [
        (block.body[0].lineno, block.body[-1].end_lineno)
        for block in ast.walk(ast.parse(source))
        if isinstance(block, ast.With | ast.Try) and ends_alike(block)
    ]
    found = set()
    for code in codes(compile(source, "", "exec")):
        table = dis.Bytecode(code).exception_entries
        steps = list(dis.get_instructions(code))
        lines = {step.offset: step.positions.lineno for step in steps}
        for step in steps:
            if step.opname != "JUMP_BACKWARD" or any(entry.start <= step.offset < entry.end for entry in table):
                continue
            line, to = step.positions.lineno, lines.get(step.argval)
            for first, last in blocks:
                if line and to and first <= line <= last and first <= to <= last and code.co_firstlineno < first:
                    found.add(line)
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_loop_in_a_block_is_guarded(path):
    assert unguarded(path.read_text()) == set()


def test_such_a_loop_is_found():
    """By what this compiler makes of one, whatever that is."""
    source = "def f(lock, items):\n with lock:\n  for x in items:\n   a = x\n   if x:\n    b = x\n"
    namespace = {}
    exec(compile(source, "", "exec"), namespace)
    steps = [step for step in dis.get_instructions(namespace["f"]) if step.opname == "JUMP_BACKWARD"]
    table = dis.Bytecode(namespace["f"]).exception_entries
    bare = [step for step in steps if not any(entry.start <= step.offset < entry.end for entry in table)]
    assert bool(unguarded(source)) == bool(bare)


class Interrupt(BaseException):
    """What the handler raises."""


def enter_and_leave(lock):
    with lock:
        pass


def test_no_handler_comes_between_a_lock_and_its_block():
    lock = pytest.importorskip("fastmp.noting").RLock()

    def interrupt(_, frame):
        if frame.f_code is enter_and_leave.__code__ or frame.f_code.co_name == "__enter__":
            raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    interrupts = 0
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
        while interrupts < 2000:
            try:
                enter_and_leave(lock)
            except Interrupt:
                interrupts += 1
            assert not lock._is_owned()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with lock:
        assert lock._is_owned()
        with lock:
            pass
        assert lock._is_owned()
    assert not lock._is_owned()


@pytest.mark.skipif(not fastmp.accelerated, reason="what the core needs locks for")
def test_locks_of_the_package_are_such_ones():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "noting.py":
            assert "threading.RLock()" not in path.read_text().replace("type(threading.RLock())", "")
