"""The guard of the default tier: a test that takes too long fails unless it is marked `slow`.

Counted: the test's call and the set-up of its function-scoped fixtures. Fixtures of a wider scope
are shared, so their set-up is not counted. On a busy machine wall time says how busy the machine
is, and CPU time adds up threads that would run side by side. So the guard takes what the test would
have taken at the least, alone on this machine: the lesser of wall time, and of the larger of the
main thread's CPU time and an equal share for each core of all CPU time, that of this process
(`time.process_time`) and of the child processes that it has waited for (`RUSAGE_CHILDREN`).

The limit is twice what a test may take by CONTRIBUTING.md: shared machines are up to three times
slower for moments. pytest's summary lists those that took longer than they may.
"""

import os
import resource
import time

import pytest

SPENT, NOTHING = pytest.StashKey(), (0.0, 0.0, 0.0)


def pytest_addoption(parser):
    parser.addoption(
        "--time-limit",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="fail a test not marked `slow` or `backends` that takes longer (default 10; 0: never)",
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
        stash[SPENT] = _add(stash.get(SPENT, NOTHING), before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    before = _clocks()
    result = yield
    limit = item.config.getoption("--time-limit")
    wall, thread, cpu = _add(item.stash.get(SPENT, NOTHING), before)
    seconds = min(wall, max(thread, cpu / (os.cpu_count() or 1)))
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
    return time.perf_counter(), time.thread_time(), cpu


def _add(spent, before):
    """(wall, main thread's CPU, CPU) seconds: `spent` and what passed since `before`."""
    return tuple(
        kept + now - then for kept, now, then in zip(spent, _clocks(), before, strict=True)
    )
