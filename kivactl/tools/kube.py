"""A Kubernetes cluster, as one account sees it. With its siblings `kube_*` the only door to the package `kubernetes`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kivactl.tools.clock import Clock
from kivactl.tools.kube_objects import Event, Json, Listing, Node, Permission, Ran, Version, WatchEvent

MANAGER = "kivactl"
"""The field manager of everything we apply ourselves."""

EVERYWHERE = ""
"""As a namespace: all of them."""


class Cluster:
    """One namespace of one cluster; other namespaces by name. Made by `open_cluster`.

    Safe to be used by several threads: at most 16 connections are kept.

    A kind is `Deployment`, or `monitoring.coreos.com/v1/ServiceMonitor` where the name alone says too little. `namespace=None` is the cluster's
    own namespace; kinds that have no namespaces ignore it.

    Every method raises, besides what it names itself:
        Unreachable: No answer within the budget of retries (NotReadyError).
        Unauthenticated: The credentials do not count (PreconditionError).
        Denied: A permission is missing (PreconditionError).
        Missing: The cluster does not know the kind (PreconditionError).
    """

    context: str
    namespace: str
    server: str

    def get(self, kind: str, name: str, namespace: str | None = None) -> Json | None:
        """An object; None when it is not there."""
        raise NotImplementedError

    def list(self, kind: str, selector: str = "", *, fields: str = "", namespace: str | None = None) -> Listing:
        """All objects of a kind.

        Args:
            kind: See the class.
            selector: By labels, such as `app.kubernetes.io/part-of=kiva,kiva/model in (a, b)`.
            fields: By fields, such as `spec.nodeName=gpu-1`.
            namespace: `EVERYWHERE` for all.
        """
        raise NotImplementedError

    def apply(self, manifest: Json, *, dry_run: bool = False, manager: str = MANAGER, force: bool = False, warn: Callable[[str], None] | None = None) -> Json:
        """Bring an object to what a manifest says of it, by server-side apply.

        Args:
            manifest: With `apiVersion`, `kind` and `metadata.name`; in the cluster's namespace unless it names one.
            dry_run: Whether the server only says what would become of it, admission included.
            manager: Whose fields the manifest's are.
            force: Whether fields are taken from whoever set them.
            warn: Gets what the server warns of, such as a Deployment whose pods Pod Security would refuse.

        Returns:
            The object as the server has it now (or would have it).

        Raises:
            Conflict: Another manager set a field to something else.
            Refused: Admission says no.
            QuotaExceeded: The namespace has no room.
            Invalid: The manifest is not valid.
            Missing: The namespace is not there.
        """
        raise NotImplementedError

    def create(self, manifest: Json, *, dry_run: bool = False) -> Json:
        """Make an object that must not be there yet.

        Raises:
            AlreadyThere: It is.
            KivaError: As `apply`.
        """
        raise NotImplementedError

    def patch(self, kind: str, name: str, patch: Json, *, namespace: str | None = None, subresource: str = "", dry_run: bool = False) -> Json:
        """Change some fields of an object (JSON merge patch: null removes a field, lists are replaced whole).

        Args:
            kind: See the class.
            name: Of the object.
            patch: Only the fields to change.
            namespace: See the class.
            subresource: Such as `scale` or `status`.
            dry_run: As for `apply`.

        Raises:
            Missing: It is not there.
            KivaError: As `apply`.
        """
        raise NotImplementedError

    def change(self, kind: str, name: str, change: Callable[[Json], Json | None], *, namespace: str | None = None) -> Json:
        """Read an object, change it and write it back; anew with what it is by then when someone else was faster.

        Args:
            kind: See the class.
            name: Of the object.
            change: Gives the object to write for the one read; None when there is nothing to change. May be called several times.
            namespace: See the class.

        Raises:
            Missing: It is not there.
            Changed: Someone else was faster each time.
            KivaError: As `apply`.
        """
        raise NotImplementedError

    def delete(self, kind: str, name: str, *, namespace: str | None = None, wait_for_dependents: bool = False) -> bool:
        """Delete an object; what belongs to it goes in the background.

        Args:
            kind: See the class.
            name: Of the object.
            namespace: See the class.
            wait_for_dependents: Whether the object stays until all that belongs to it is gone.

        Returns:
            False when it was not there.
        """
        raise NotImplementedError

    def watch(
        self, kind: str, selector: str = "", *, fields: str = "", namespace: str | None = None, since: Listing | None = None, pause_s: int = 5
    ) -> Iterator[WatchEvent]:
        """What is there and how it changes, without end; whoever has seen enough closes the iterator.

        Lost connections and forgotten history do not show: what was missed meanwhile is told as `Found` and `Gone`.

        Args:
            kind: See the class.
            selector: As for `list`.
            fields: As for `list`.
            namespace: As for `list`.
            since: What the reader knows already, so that only changes of it are told; everything that is there comes first when absent.
            pause_s: Seconds without news after which `Synced` is told, so that the reader can look at its clock.
        """
        raise NotImplementedError

    def events(self, kind: str = "", name: str = "", *, namespace: str | None = None) -> tuple[Event, ...]:
        """What was said about an object, a kind's objects or all, the newest last; kept by a cluster for an hour, usually."""
        raise NotImplementedError

    def logs(
        self, pod: str, container: str = "", *, tail: int = 100, previous: bool = False, since_s: int | None = None, namespace: str | None = None
    ) -> tuple[str, ...]:
        """The last lines of a container; none when it has not started.

        Args:
            pod: Name of the pod.
            container: Needed where the pod has several.
            tail: Lines, at most.
            previous: Of the container that ran before the last restart; none when there was no other.
            since_s: Only lines of so many last seconds.
            namespace: See the class.

        Raises:
            Missing: There is no such pod or container.
        """
        raise NotImplementedError

    def follow(self, pod: str, container: str = "", *, tail: int = 10, namespace: str | None = None) -> Iterator[str]:
        """The lines of a container as they come, until it ends.

        Raises:
            Missing: There is no such pod or container.
        """
        raise NotImplementedError

    def run_in(self, pod: str, container: str, argv: Sequence[str], *, stdin: str | None = None, timeout_s: float = 60, namespace: str | None = None) -> Ran:
        """Run a program in a container to its end.

        Args:
            pod: Name of the pod.
            container: Name of the container.
            argv: Program and arguments, no shell; no secrets.
            stdin: Text for its standard input, empty otherwise.
            timeout_s: Seconds it may take.
            namespace: See the class.

        Raises:
            Missing: There is no such pod, container or program.
            ToolError: It did not end in time, or the connection broke.
        """
        raise NotImplementedError

    def nodes(self, selector: str = "") -> tuple[Node, ...]:
        """The machines."""
        raise NotImplementedError

    def version(self) -> Version:
        """Of the API server."""
        raise NotImplementedError

    def serves(self, kind: str) -> bool:
        """Whether the cluster knows a kind, such as `leaderworkerset.x-k8s.io/v1/LeaderWorkerSet`."""
        raise NotImplementedError

    def can_i(self, permission: Permission) -> bool:
        """Whether our account has a permission."""
        raise NotImplementedError


def contexts(kubeconfig: Path | None = None) -> tuple[str, ...]:
    """The contexts that can be named, in order.

    Args:
        kubeconfig: The file; `KUBECONFIG` (several, with colons) or `~/.kube/config` when absent.

    Raises:
        PreconditionError: A file cannot be read.
    """
    raise NotImplementedError


def open_cluster(context: str, namespace: str, kubeconfig: Path | None = None, *, clock: Clock | None = None) -> Cluster:
    """The cluster a context names. Nothing is asked of it yet.

    Args:
        context: Name in the kubeconfig; never the current one by itself.
        namespace: Where everything is that names no other; the context's own namespace does not count.
        kubeconfig: As for `contexts`.
        clock: For waiting between tries.

    Raises:
        PreconditionError: There is no such context (the hint names those that exist), or its files or credentials cannot be had.
    """
    raise NotImplementedError
