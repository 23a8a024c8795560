"""No input crashes the interpreter: functions of the extension get arguments of every kind, in a child that must live.

Whatever is drawn, a call returns or raises an Exception; a signal ends the child and fails the test, with the last call in its output.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = int(os.environ.get("RAREFY_FUZZ_CALLS", "3000"))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_no_call_crashes(library, seed, tmp_path):
    if library == "torch":
        pytest.importorskip("torch", reason="missing: torch (RAREFY_TEST_TORCH=1 make test installs it)")
    log = tmp_path / "last_call"
    child = subprocess.run(
        [sys.executable, "-X", "faulthandler", Path(__file__).parent / "fuzz_calls.py", library, str(seed), str(CALLS), log],
        capture_output=True,
        text=True,
        timeout=600,
    )
    last = log.read_text() if log.exists() else "none"
    assert child.returncode == 0, f"exit status {child.returncode}; last call: {last}\n{child.stderr[-3000:]}"
    returned, raised = map(int, child.stdout.split())
    # Both happen often, or the calls test nothing.
    assert returned > CALLS // 50
    assert raised > CALLS // 4
