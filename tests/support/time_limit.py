"""The guard of the default tier: a test that takes too long fails unless it is marked `slow`.

Counted: the test's call and the set-up of its function-scoped fixtures. Fixtures of a wider scope
are shared, so their set-up is not counted. On a busy machine wall time says how busy the machine
is; CPU time counts each thread of a process on its own. So the guard takes the lesser of wall time
and CPU time, where CPU time is that of this process (`time.process_time`) and of the child
processes that it has waited for (`RUSAGE_CHILDREN`).
"""

import resource
import time

import pytest

SPENT = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption(
        "--time-limit",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="fail a test not marked `slow` or `backends` that takes longer (default 5; 0: never)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    if fixturedef.scope != "function":
        return (yield)
    before = _clocks()
    try:
        return (yield)
    finally:
        stash = request.node.stash
        stash[SPENT] = _add(stash.get(SPENT, (0.0, 0.0)), before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    before = _clocks()
    result = yield
    limit = item.config.getoption("--time-limit")
    seconds = min(_add(item.stash.get(SPENT, (0.0, 0.0)), before))
    marked = any(item.get_closest_marker(name) for name in ("slow", "backends"))
    if 0 < limit < seconds and not marked:
        pytest.fail(
            f"The test took {seconds:.1f} s, more than {limit:g} s. Make it smaller, share what it "
            "builds in a module-scoped fixture, or mark it @pytest.mark.slow.",
            pytrace=False,
        )
    return result


def _clocks():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = time.process_time() + children.ru_utime + children.ru_stime
    return time.perf_counter(), cpu


def _add(spent, before):
    """(wall, CPU) seconds: `spent` and what passed since `before`."""
    return tuple(
        kept + now - then for kept, now, then in zip(spent, _clocks(), before, strict=True)
    )
