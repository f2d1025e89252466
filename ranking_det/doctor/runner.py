"""Run the probes in a child process, which is restarted after a probe that crashes it.

The child writes a line of JSON for each finished probe. The first probe without a line is the one
that crashed the child or exceeded the time limit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from ranking_det.doctor.diagnosis import Check, diagnose, explain
from ranking_det.doctor.probes import PROBES

LIMIT = 120  # seconds; the first import of torch from a slow disk takes a minute
# The child gets this process's path, so that both find the same packages.
CHILD = """
import sys
sys.path[:] = {path!r}
from ranking_det.doctor.runner import child
child({done!r})
"""


def run_probes() -> list[Check]:
    """Run all probes; return their checks in the order of ``PROBES``."""
    finished: dict[str, Check] = {}
    while len(finished) < len(PROBES):
        failed = {name: check.status in ("FAULT", "skipped") for name, check in finished.items()}
        lines, outcome = _run(CHILD.format(path=sys.path, done=failed))
        checks = [Check(*json.loads(line)) for line in lines]
        finished |= {check.name: check for check in checks}
        culprit = next((name for name in PROBES if name not in finished), None)
        if culprit is not None:
            remedies = PROBES[culprit].remedies
            finished[culprit] = explain(culprit, remedies.package, outcome, remedies.broken)
    return [_soften(finished[name]) for name in PROBES]


def _soften(check: Check) -> Check:
    if check.status != "FAULT" or not PROBES[check.name].optional:
        return check
    return check._replace(status="note", text=f"not needed for training, but {check.text}")


def _run(code: str) -> tuple[list[str], str]:
    """Run code in a child process; return its complete output lines and how it ended."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    try:
        result = subprocess.run(command, capture_output=True, timeout=LIMIT)
        output, outcome = result.stdout, _describe_end(result.returncode)
        messages = result.stderr.decode(errors="replace").strip().splitlines()
        outcome += f", last message: {messages[-1].strip()}" if messages else ""
    except subprocess.TimeoutExpired as error:
        output, outcome = error.stdout or b"", f"does not finish within {LIMIT} seconds"
    return output.decode().split("\n")[:-1], outcome


def _describe_end(status: int) -> str:
    try:
        reason = signal.Signals(-status).name
    except ValueError:
        reason = f"exit status {status}"
    return f"crashes the interpreter ({reason})"


def child(failures: dict[str, bool]) -> None:
    """Run the probes that are not in ``failures``, which tells whether each finished one failed."""
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that output of libraries does not mix with the lines
    failed = {name for name, has_failed in failures.items() if has_failed}
    for name, probe in PROBES.items():
        if name in failures:
            continue
        failed_needs = [need for need in probe.needs if need in failed]
        if failed_needs:
            check = Check(name, "skipped", f"{' and '.join(failed_needs)} must work first")
        else:
            try:
                check = Check(name, "ok", probe.run())
            except (
                BaseException
            ) as error:  # including SystemExit: a broken package can raise anything
                check = diagnose(name, probe.remedies, error)
        if check.status in ("FAULT", "skipped"):
            failed.add(name)
        report.write(json.dumps(check) + "\n")
        report.flush()
