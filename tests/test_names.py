"""docs/compatibility.md says of the running interpreter what is so."""

import inspect
import multiprocessing
import sys
from pathlib import Path

import fastmp
import names
import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "compatibility.md"
VERSION = f"3.{sys.version_info.minor}"

pytestmark = pytest.mark.skipif(
    not fastmp.accelerated or not PAGE.exists(), reason="about fastmp's core, in the repository"
)


@pytest.fixture(scope="module")
def written():
    return names.read(PAGE.read_text())


def test_the_page_is_what_the_interpreter_has(written):
    """Else: `.ci/names WHEEL`, and look at what has changed."""
    if VERSION not in written:
        pytest.skip(f"the page has no column for {VERSION}")
    found = {
        group: {name: mark for name, mark in marks.items() if mark != names.WITHOUT}
        for group, marks in names.column(names.names(written)).items()
    }
    expected = {
        group: {name: mark for name, mark in marks.items() if mark != names.WITHOUT}
        for group, marks in written[VERSION].items()
    }
    assert found == expected


def test_nothing_is_missing_on_any_version(written):
    assert list(written) == names.VERSIONS
    odd = {
        (group, name): mark
        for groups in written.values()
        for group, marks in groups.items()
        for name, mark in marks.items()
        if mark not in (names.SAME, names.NEWER)
    }
    assert odd == dict.fromkeys(names.DIFFERENCES, names.DIFFERENT)


def test_what_the_newest_has_is_there_on_every_version(written):
    newest = written[names.VERSIONS[-1]]
    for group, marks in newest.items():
        for name in marks:
            assert all(name in columns[group] for columns in written.values()), (group, name)


def test_a_name_that_is_gone_would_be_found(monkeypatch):
    context = type(fastmp.get_context("spawn"))
    monkeypatch.setattr(context, "Lock", lambda self, needed: None)
    monkeypatch.setattr(multiprocessing.get_context("spawn"), "novelty", lambda: 1, raising=False)
    for name in set(names.CLASSES) - {"context"}:
        monkeypatch.delitem(names.CLASSES, name)
    marks = names.column()["context"]
    assert marks["Lock"] == names.DIFFERENT
    assert marks["novelty"] == names.MISSING


@pytest.mark.parametrize(
    ("ours", "theirs", "takes"),
    [
        (lambda a, b=1: 0, lambda a, b=1: 0, True),
        (lambda a, b=1, *, c=2: 0, lambda a, b=1: 0, True),
        (lambda a: 0, lambda a, b=1: 0, False),
        (lambda a, b: 0, lambda a, b=1: 0, False),
        (lambda a, c=1: 0, lambda a, b=1: 0, False),
        (lambda a, b=1, *, c: 0, lambda a, b=1: 0, False),
        (lambda a, *, b=1: 0, lambda a, b=1: 0, False),
        (lambda *args, **kwargs: 0, lambda a, b=1: 0, True),
        (lambda a: 0, lambda *args: 0, False),
        (lambda a, /: 0, lambda a: 0, False),
        (lambda a: 0, lambda a, /: 0, True),
    ],
)
def test_signatures(ours, theirs, takes):
    assert names.takes_all(ours, theirs) is takes


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_arguments_that_newer_versions_have(method):
    """On every version, though the running stdlib may not have them."""
    context = fastmp.get_context(method)
    parameters = inspect.signature(context.Process).parameters
    assert parameters["kwargs"].default is None
    assert list(parameters) == ["group", "target", "name", "args", "kwargs", "daemon"]
    preload = inspect.signature(context.set_forkserver_preload).parameters
    assert preload["on_error"].default == "ignore"
    assert preload["on_error"].kind is inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(ValueError, match="on_error must be 'ignore', 'warn', or 'fail', not 'bogus'"):
        context.set_forkserver_preload([], on_error="bogus")
    with pytest.raises(TypeError, match="module_names must be a list of strings"):
        context.set_forkserver_preload([5])
