"""The real vLLM loads the plugin, and has what it changes."""

import os
import subprocess
import sys

import pytest

from kivactl.stack.fair_wait import yields_unfairly

pytestmark = pytest.mark.real

SCRIPT = """
import vllm.distributed.utils as waiting
before = waiting.USE_SCHED_YIELD
import vllm.plugins
vllm.plugins.load_general_plugins()
print(before, waiting.USE_SCHED_YIELD)
"""


def test_how_the_real_vllm_waits():
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    assert done.stdout.split()[-2:] == ["True", str(not yields_unfairly(os.uname().release))]
