"""What a machine image of an air-gapped site has: an environment with gateway and engine, and a model. The tests' own, shown to the machine read-only."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import tiny_model
from machines import Machine

from kivactl import root

ENVIRONMENT = "/opt/engine/python"
MODEL = "/srv/kiva/models/tiny"


def give_engine(machine: Machine) -> None:
    """Put environment and model on a machine that is not started yet."""
    place = machine.root / "opt/engine"
    for name, source in (("packages", sysconfig.get_path("purelib")), ("checkout", root.PACKAGE.parent)):
        (place / name).mkdir(parents=True)
        subprocess.run(["mount", "--bind", source, place / name], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", place / name], check=True)
    packages = place / "python/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    (packages / "engine.pth").write_text("/opt/engine/checkout\n/opt/engine/packages\n")
    (place / "python/pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    programs = place / "python/bin"
    programs.mkdir()
    (programs / "python").symlink_to("/usr/bin/python3.11")
    (programs / "envoy").write_text(f"#!{ENVIRONMENT}/bin/python\nimport sys\nfrom envoy._main import main\nsys.exit(main())\n")
    (programs / "envoy").chmod(0o755)
    model = tiny_model.build(Path(f"{machine.root}{MODEL}"))
    for path in (model, *model.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)


def engine_model() -> dict[str, Any]:
    """The spec's part on that model, for engines that start fast on few cores."""
    return {
        "name": "tiny",
        "source": f"path:{MODEL}",
        "max_length": 512,
        "concurrency": 8,
        "drain_within": "10s",
        "kv_cache": "64MiB",
        "ready_within": "400s",
        "engine": {"load-format": "dummy", "enforce-eager": True},
    }
