"""What is found of a real engine whose core has written its title over its environment."""

from pathlib import Path

import pytest
import tiny_engine
import tiny_model

from kivactl.tools import leftovers

pytestmark = [pytest.mark.real, pytest.mark.alone]  # with the engine of those


@pytest.fixture(scope="session")
def engine(request):
    return tiny_engine.engine(request.config, tiny_model.build)


def test_an_engines_core_is_found_by_the_folder_it_works_in(engine):
    core, folder = engine.core(), str(Path(f"/proc/{engine.process.pid}/cwd").readlink())
    first = Path(f"/proc/{core.pid}/environ").read_bytes().partition(b"\0")[0]
    assert b"=" not in first, "it was started without what keeps the environment; what else of it is left depends on what the core had set anew"
    found = leftovers.marked("KIVA_STATE", folder)
    assert core.pid in found
    assert engine.process.pid not in found, "it works there too, and has its environment"
    assert core.pid not in leftovers.marked("KIVA_STATE", str(Path(folder).parent))
