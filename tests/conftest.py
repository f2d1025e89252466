"""A limit on the time of each test file, so that the default run stays short."""

import collections

import pytest

LIMIT = 120.0  # seconds; a file that needs half of it on two idle cores has slow tests to mark
durations = collections.Counter()


def pytest_runtest_logreport(report):
    if "slow" not in report.keywords:
        durations[report.nodeid.split("::")[0]] += report.duration


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    over = {name: t for name, t in durations.items() if t > LIMIT}
    for name, seconds in over.items():
        session.config.get_terminal_writer().line(
            f"\n{name} took {seconds:.0f} s, more than the {LIMIT:.0f} s of a test file", red=True
        )
    if over and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
