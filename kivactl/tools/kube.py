"""A Kubernetes cluster, as one account sees it. With its siblings `kube_*` the only door to the package `kubernetes`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kivactl.errors import ToolError
from kivactl.tools.clock import Clock
from kivactl.tools.kube_access import access_for, kubeconfig_files, read_kubeconfig
from kivactl.tools.kube_asking import Asking, Watching
from kivactl.tools.kube_calls import Answer, Calls, Cut, Request
from kivactl.tools.kube_errors import AlreadyThere, Invalid, Missing
from kivactl.tools.kube_exec import run_in
from kivactl.tools.kube_failure import flags_for
from kivactl.tools.kube_forward import Forward, Way
from kivactl.tools.kube_kinds import KINDS
from kivactl.tools.kube_objects import Event, Json, Listing, Node, Permission, Ran, Version, WatchEvent, parse_event, parse_node, parse_version
from kivactl.tools.kube_watch import watched

MANAGER = "kivactl"
"""The field manager of everything we apply ourselves."""

EVERYWHERE = ""
"""As a namespace: all of them."""

_DAY_S = 86400.0
_UNSTARTED = re.compile(r"is waiting to start|previous terminated container .* not found|trying and failing to pull image|ContainerCreating|PodInitializing")


class Cluster:
    """One namespace of one cluster; other namespaces by name. Made by `open_cluster`.

    Safe to be used by several threads.

    A kind is `Deployment`, or `monitoring.coreos.com/v1/ServiceMonitor` where the name alone says too little. `namespace=None` is the cluster's
    own namespace; kinds that have no namespaces ignore it.

    Every method raises, besides what it names itself:
        Unreachable: No answer within the budget of retries (NotReadyError).
        Unauthenticated: The credentials do not count (PreconditionError).
        Denied: A permission is missing (PreconditionError).
        Missing: The cluster does not know the kind (PreconditionError).
    """

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self.context = asking.calls.access.context
        self.server = asking.calls.access.server
        self.namespace = asking.namespace
        self.flags = flags_for(self.context, asking.calls.access.kubeconfig)
        self.clock = asking.clock

    def impatient(self, patience_s: float) -> Cluster:
        """The same cluster, given up after so many seconds without a good answer: for what is tried again anyway."""
        return Cluster(self._asking.impatient(patience_s))

    def get(self, kind: str, name: str, namespace: str | None = None) -> Json | None:
        """An object; None when it is not there."""
        try:
            return self._asking.ask("get", self._asking.kind_of(kind), name, namespace).content
        except Missing as missing:
            if not missing.object_only:
                raise
            return None

    def list(self, kind: str, selector: str = "", *, fields: str = "", namespace: str | None = None) -> Listing:
        """All objects of a kind.

        Args:
            kind: See the class.
            selector: By labels, such as `app.kubernetes.io/part-of=kiva,kiva/model in (a, b)`.
            fields: By fields, such as `spec.nodeName=gpu-1`.
            namespace: `EVERYWHERE` for all.
        """
        return self._asking.listed(kind, {"labelSelector": selector, "fieldSelector": fields}, namespace)

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
        kind, name, namespace = self._asking.subject_of(manifest)
        query = {"fieldManager": manager, "force": "true" if force else "", "dryRun": "All" if dry_run else "", "fieldValidation": "Strict"}
        body = _placed(manifest, namespace if kind.namespaced else "")

        def once() -> Answer:
            return self._asking.ask("patch", kind, name, namespace, query=query, body=body, form="application/apply-patch+yaml")

        answer = self._asking.again_when_changed(once)
        if warn is not None:
            for warning in answer.warnings:
                warn(warning)
        return answer.content

    def create(self, manifest: Json, *, dry_run: bool = False) -> Json:
        """Make an object that must not be there yet.

        Raises:
            AlreadyThere: It is.
            KivaError: As `apply`.
        """
        kind, name, namespace = self._asking.subject_of(manifest)
        query = {"fieldManager": MANAGER, "dryRun": "All" if dry_run else "", "fieldValidation": "Strict"}
        body = _placed(manifest, namespace if kind.namespaced else "")
        try:
            return self._asking.ask("create", kind, name, namespace, query=query, body=body).content
        except AlreadyThere as there:
            found = self.get(f"{kind.api_version}/{kind.name}", name, namespace) if there.perhaps_ours else None
            if found is None:
                raise
            return found

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
        query = {"fieldManager": MANAGER, "dryRun": "All" if dry_run else ""}
        known = self._asking.kind_of(kind)
        return self._asking.ask("patch", known, name, namespace, query=query, body=patch, form="application/merge-patch+json", subresource=subresource).content

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
        known = self._asking.kind_of(kind)

        def once() -> Answer:
            found = self._asking.ask("get", known, name, namespace)
            changed = change(found.content)
            return self._asking.ask("update", known, name, namespace, query={"fieldManager": MANAGER}, body=changed) if changed is not None else found

        return self._asking.again_when_changed(once).content

    def delete(self, kind: str, name: str, *, namespace: str | None = None, wait_for_dependents: bool = False, at_once: bool = False) -> bool:
        """Delete an object; what belongs to it goes in the background.

        Args:
            kind: See the class.
            name: Of the object.
            namespace: See the class.
            wait_for_dependents: Whether the object stays until all that belongs to it is gone.
            at_once: Whether a pod is killed and forgotten without its time to end.

        Returns:
            False when it was not there.
        """
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground" if wait_for_dependents else "Background"}
        body |= {"gracePeriodSeconds": 0} if at_once else {}
        return self._taken_away(lambda: self._asking.ask("delete", self._asking.kind_of(kind), name, namespace, body=body))

    def evict(self, pod: str, *, namespace: str | None = None) -> bool:
        """Ask a pod to go, with its time to end, as far as PodDisruptionBudgets let it.

        Args:
            pod: Name of the pod.
            namespace: See the class.

        Returns:
            False when it was not there.

        Raises:
            Guarded: A budget does not let it go now.
        """
        body: Json = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace or self.namespace}}
        return self._taken_away(lambda: self._asking.ask("create", KINDS["Pod"], pod, namespace, body=body, subresource="eviction"))

    def _taken_away(self, ask: Callable[[], object]) -> bool:
        """Whether what is asked away was there; an answer that was lost may have been the one that did it."""
        try:
            ask()
        except Missing as missing:
            if not missing.object_only:
                raise
            return missing.perhaps_ours
        return True

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
        query = {"labelSelector": selector, "fieldSelector": fields}
        return watched(Watching(self._asking, kind, query, namespace), self.clock, since=since, pause_s=pause_s)

    def events(self, kind: str = "", name: str = "", *, namespace: str | None = None) -> tuple[Event, ...]:
        """What was said about an object, a kind's objects or all, the newest last; kept by a cluster for an hour, usually."""
        fields = ",".join(f"involvedObject.{key}={value}" for key, value in (("kind", kind.rpartition("/")[2]), ("name", name)) if value)
        found = (parse_event(one) for one in self.list("Event", fields=fields, namespace=namespace).items)
        return tuple(sorted(found, key=lambda one: one.last_at.rstrip("Z")))

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
        query = {"container": container, "tailLines": str(tail), "previous": "true" if previous else "", "sinceSeconds": str(since_s or "")}
        question, request = self._asking.request("get", KINDS["Pod"], pod, namespace, query=query, subresource="log")
        try:
            text = self._asking.calls.text(question, request)
        except Invalid as error:
            if not _UNSTARTED.search(error.message):
                raise
            return ()
        return tuple(text.removesuffix("\n").split("\n")) if text else ()

    def follow(self, pod: str, container: str = "", *, tail: int = 10, namespace: str | None = None) -> Iterator[str]:
        """The lines of a container as they come, until it ends.

        Raises:
            Missing: There is no such pod or container.
        """
        query = {"container": container, "tailLines": str(tail), "follow": "true"}
        question, request = self._asking.request("get", KINDS["Pod"], pod, namespace, query=query, subresource="log", silence_s=_DAY_S)
        try:
            with self._asking.calls.lines(question, request) as lines:
                for line in lines:
                    yield line.decode(errors="replace")
        except Cut:
            raise ToolError(f"the log of pod {pod} broke off", "the same command goes on with what comes now") from None

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
        question, request = self._asking.request("create", KINDS["Pod"], pod, namespace, subresource="exec")
        return run_in(self._asking.calls.access, question, request.path, container, argv, stdin=stdin or "", timeout_s=timeout_s, clock=self.clock)

    def forward(self, pod: str | Callable[[], Sequence[str]], port: int, *, namespace: str | None = None) -> Forward:
        """A port of a pod on this machine's loopback, until it is closed or the process ends.

        Args:
            pod: Name of the pod; or what gives, for each connection, those that may take it, the first to be tried first.
            port: The pod's.
            namespace: See the class.

        Raises:
            Missing: There is no such pod.
        """

        def ways() -> list[Way]:
            names = [pod] if isinstance(pod, str) else pod()
            asked = [self._asking.request("create", KINDS["Pod"], one, namespace, subresource="portforward") for one in names]
            return [Way(question, request.path) for question, request in asked]

        return Forward(self._asking.calls.access, ways, port)

    def nodes(self, selector: str = "") -> tuple[Node, ...]:
        """The machines."""
        return tuple(parse_node(one) for one in self.list("Node", selector).items)

    def version(self) -> Version:
        """Of the API server."""
        return parse_version(self._asking.calls.ask(self._asking.question("get", None), Request("GET", "/version")).content)

    def serves(self, kind: str) -> bool:
        """Whether the cluster knows a kind, such as `leaderworkerset.x-k8s.io/v1/LeaderWorkerSet`."""
        try:
            self._asking.kind_of(kind)
        except Missing:
            return False
        return True

    def can_i(self, permission: Permission) -> bool:
        """Whether our account has a permission."""
        kind = self._asking.kind_of(permission.kind)
        namespace = self._asking.place_of(kind, permission.namespace)
        about = {"namespace": namespace, "verb": permission.verb, "group": kind.group, "resource": kind.plural}
        about |= {"subresource": permission.subresource, "name": permission.name}
        review = KINDS["SelfSubjectAccessReview"]
        body = {"apiVersion": review.api_version, "kind": review.name, "spec": {"resourceAttributes": {key: value for key, value in about.items() if value}}}
        return bool((self._asking.ask("create", review, "", "", body=body).content.get("status") or {}).get("allowed"))


def contexts(kubeconfig: Path | None = None) -> tuple[str, ...]:
    """The contexts that can be named, in order.

    Args:
        kubeconfig: The file; `KUBECONFIG` (several, with colons) or `~/.kube/config` when absent.

    Raises:
        PreconditionError: A file cannot be read.
    """
    return tuple(read_kubeconfig(kubeconfig_files(kubeconfig)).contexts)


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
    clock = clock or Clock()
    access = replace(access_for(read_kubeconfig(kubeconfig_files(kubeconfig)), context), kubeconfig=str(kubeconfig or ""))
    return Cluster(Asking(Calls(access, clock), namespace, clock))


def _placed(manifest: Json, namespace: str) -> Json:
    """A manifest that names its namespace."""
    return {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}} if namespace else manifest
