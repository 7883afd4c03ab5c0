"""One operator at a time."""

import os
import sys

import pytest

from kivactl.errors import PreconditionError
from kivactl.targets.lock import held
from kivactl.tools import process


def test_the_second_is_told_who_holds_it(tmp_path):
    with (
        held(tmp_path / "lock", "deploy"),
        pytest.raises(PreconditionError, match=rf"'deploy' of .* \(pid {os.getpid()}, since"),
        held(tmp_path / "lock", "stop"),
    ):
        pass


def test_it_can_be_held_again(tmp_path):
    for _ in range(2):
        with held(tmp_path / "lock", "deploy"):
            pass


def test_a_killed_holder_holds_nothing(tmp_path):
    code = "import os, sys; from pathlib import Path; from kivactl.targets.lock import held\nwith held(Path(sys.argv[1]), 'deploy'): os.kill(os.getpid(), 9)"
    assert process.run([sys.executable, "-c", code, tmp_path / "lock"], check=False).code == -9
    with held(tmp_path / "lock", "deploy"):
        pass
