"""The guard that fails slow tests of the default tier."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TESTS = """
import time
import pytest

def work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

@pytest.fixture(scope="module")
def shared():
    work(0.4)

@pytest.fixture
def own():
    work(0.4)

def test_quick(): pass
def test_with_shared_setup(shared): pass
def test_asleep(): time.sleep(0.4)
@pytest.mark.slow
def test_marked(): work(0.4)
@pytest.mark.backends
def test_backends(): work(0.4)
def test_busy(): work(0.4)
def test_with_own_setup(own): pass
def test_wrong():
    work(0.4)
    raise ValueError("the cause")
"""


@pytest.fixture
def run(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("PYTEST_ADDOPTS", "CI"):  # CI makes pytest's summary repeat whole messages
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\nmarkers =\n    slow: x\n    backends: x\n")
    pytester.makeconftest("from tests.support.time_limit import *")
    pytester.makepyfile(TESTS)
    return lambda *arguments: pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


def test_a_slow_test_fails_unless_it_is_marked(run):
    result = run("--time-limit=0.2")
    result.assert_outcomes(passed=5, failed=3)  # not shared set-up, not sleep
    assert len(re.findall(r"The test took \d\.\d s, more than 0\.2 s\.", str(result.stdout))) == 2
    result.stdout.fnmatch_lines(["*ValueError: the cause*"])


def test_no_limit(run):
    run("--time-limit=0").assert_outcomes(passed=7, failed=1)
