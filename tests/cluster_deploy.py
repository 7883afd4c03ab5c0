"""A deploy as a process of its own, which tests kill: `python -m cluster_deploy KUBECONFIG IMAGE`."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster_site import QuickClock, desired, engine, gateway, operator


def main(kubeconfig: str, image: str) -> None:
    """Bring the cluster to one engine with an image, and to a gateway that says which."""
    target = operator(Path(kubeconfig), QuickClock())
    wanted = desired(engine("smollm2", image={"reference": image}), gateway=gateway("smollm2", image[-4:]))
    for outcome in target.apply(wanted):
        print(outcome.step, outcome.status.value, outcome.message, flush=True)
    target.finish(image[-4:], "2026-11-29T12:00:00+00:00")


if __name__ == "__main__":
    main(*sys.argv[1:])
