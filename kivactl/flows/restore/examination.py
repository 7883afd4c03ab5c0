"""Whether a fetched backup is whole and fits the platform: everything is looked at before anything is overwritten."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kivactl.errors import CheckError, KivaError
from kivactl.flows.deployment import Deployment
from kivactl.flows.restore.cluster import faults_of_cluster, is_of_cluster
from kivactl.flows.restore.manifest import Manifest, faults_of_files, read_manifest
from kivactl.plan import Outcome, Status
from kivactl.spec.load import load
from kivactl.stack import tokens
from kivactl.stack.certificates import parse
from kivactl.stack.gateway.access import AUDIENCE
from kivactl.stack.layout import Layout
from kivactl.targets.publication import key_id
from kivactl.targets.register import read_register
from kivactl.targets.release import read_release
from kivactl.tools.models import ModelStore

_SKEW = timedelta(minutes=2)
"""By so much may the clocks of two machines differ."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A backup that is whole.

    Attributes:
        manifest: What it says of itself.
        notes: What a person should know of it.
    """

    manifest: Manifest
    notes: tuple[str, ...]


def examine(deployment: Deployment, tree: Path) -> Iterator[Outcome]:
    """Look at everything; one outcome for each aspect.

    Raises:
        PreconditionError: It is another platform's, or of another format.
        CheckError: Something is damaged: all of it, one a line.
    """
    manifest = read_manifest(tree, deployment.platform.name)
    faults: list[str] = []
    for title, look in _aspects_of(manifest).items():
        started_s = deployment.clock.now_s()
        yield Outcome(title, Status.STARTED)
        found = list(_looked(look, tree, manifest))
        faults += found
        said = f"{len(found)} of them faulty: {found[0]}" if found else "good"
        yield Outcome(title, Status.FAILED if found else Status.DONE, said, deployment.clock.now_s() - started_s)
        if found and look is faults_of_files:
            break  # what the others read is damaged
    if faults:
        raise CheckError(f"the backup of {manifest.made_at:%Y-%m-%d %H:%M} UTC is damaged", "choose another: kivactl backup list", tuple(faults[:20]))
    for note in notes_on(deployment, tree, manifest):
        yield Outcome("note", Status.DONE, note)


def examined(deployment: Deployment, tree: Path) -> Examined:
    """The same in one go.

    Raises:
        KivaError: As `examine`.
    """
    notes = tuple(outcome.message for outcome in examine(deployment, tree) if outcome.step == "note")
    return Examined(read_manifest(tree), notes)


def faults_of_keys(tree: Path, manifest: Manifest) -> Iterator[str]:
    """Keys that do not sign, or whose signatures do not verify; certificates that do not belong to their key."""
    import jwt

    layout = _layout(tree)
    key = layout.signing_key.read_bytes()
    if key_id(key) != manifest.keys.signing:
        yield "the signing key is not the one that was backed up"
    now = datetime.now(UTC)
    mark = secrets.token_hex(8)
    token = tokens.issue(key, platform=manifest.platform, tenant="restore", name="restore", token_id=mark, issued_at=now, lifetime=timedelta(minutes=5))
    jwk = tokens.jwks_for([key])["keys"][0]
    try:
        # A wall clock that was set back between signing and reading is none of the key's faults.
        claims = jwt.decode(token.reveal(), jwt.PyJWK(jwk).key, algorithms=[tokens.ALGORITHM], audience=AUDIENCE, options={"verify_iat": False})
        sound = (claims["iss"], claims["jti"]) == (f"kiva:{manifest.platform}", mark)
    except jwt.PyJWTError:
        sound = False
    if not sound:
        yield "a token of the signing key does not verify"
    retired = {path.stem: path for path in layout.retired_keys.glob("*.pem")} if layout.retired_keys.is_dir() else {}
    for name in sorted(set(manifest.keys.retired) | set(retired)):
        if name not in retired:
            yield f"the retired key {name} is missing"
        elif key_id(retired[name].read_bytes()) != name:
            yield f"the retired key {name} is another one"
    for certificate, private in ((layout.ca_certificate, layout.ca_key), (layout.certificate, layout.certificate_key)):
        if certificate.exists() and private.exists() and not parse(certificate.read_bytes())[0].matches(private.read_bytes()):
            yield f"{certificate.name} does not belong to {private.name}"


def faults_of_tokens(tree: Path, manifest: Manifest) -> Iterator[str]:
    """A register of tokens that is not what was backed up, or a record of what is deployed that cannot be read."""
    layout = _layout(tree)
    register = read_register(layout)
    live = sum(token.live(manifest.made_at) for token in register.tokens)
    revoked = sum(token.revoked_at is not None for token in register.tokens)
    if (live, revoked) != (manifest.tokens.live, manifest.tokens.revoked):
        yield f"the register has {live} live and {revoked} revoked tokens instead of {manifest.tokens.live} and {manifest.tokens.revoked}"
    read_release(layout.release)


def faults_of_ledger(tree: Path, manifest: Manifest) -> Iterator[str]:
    """A ledger that does not add up to what was backed up."""
    from kivactl.usage.snapshot import sums_of

    path = _layout(tree).ledger
    if manifest.ledger is None:
        if path.exists():
            yield "there is a ledger that the manifest does not know"
        return
    if not path.exists():
        yield "the ledger is missing"
    elif sums_of(path) != manifest.ledger.sums:
        yield "the ledger's sums are not those that were backed up"


def faults_of_spec(tree: Path, manifest: Manifest) -> Iterator[str]:
    """A spec that does not load, or is another platform's."""
    for name in manifest.spec_files:
        if not (tree / "spec" / name).is_file():
            yield f"the spec's file {name} is missing"
    if (tree / manifest.spec).is_file():
        loaded = load(tree / manifest.spec, manifest.environment)
        if loaded.platform.target == "kubernetes" and not is_of_cluster(manifest):
            yield "the record of the cluster's deploys is missing"
        if loaded.platform.name != manifest.platform:
            yield f"the spec is of the platform '{loaded.platform.name}'"


def notes_on(deployment: Deployment, tree: Path, manifest: Manifest) -> Iterator[str]:
    """What a person should know before it is put back; none of it is in the way."""
    try:
        theirs = load(tree / manifest.spec, manifest.environment).digest
    except KivaError:
        theirs = ""
    if theirs != deployment.loaded.digest:
        yield f"the spec in the backup differs from {deployment.loaded.files[0]}, which stays as it is"
    if manifest.made_at > datetime.now(UTC) + _SKEW:
        yield f"the backup says it was made at {manifest.made_at:%Y-%m-%d %H:%M:%S} UTC, which is yet to come: a clock was wrong, its age cannot be told"
    if Path(manifest.state) != deployment.layout.state:
        yield f"the backup was made of {manifest.state}; it is put back into {deployment.layout.state}"
    if deployment.platform.target == "kubernetes":
        if not is_of_cluster(manifest):
            yield "the backup is of a platform on one machine, and has nothing of a cluster"
        yield "models are in no backup: each is fetched from its source again where its volume is gone"
        return
    store, known = ModelStore(deployment.layout.cache), {model.name: model for model in manifest.models}
    for model in deployment.platform.models:
        entry = known.get(model.name)
        try:
            here = store.prepared(model, deployment.loaded.folder)
        except KivaError as error:
            yield f"model {model.name}: {error.message}" + ("; it comes out of the backup" if entry and entry.with_content else "")
            continue
        if here is None:
            yield f"model {model.name} has to be prepared again from {model.source}"
        elif entry is not None and entry.identity and not entry.with_content and here.identity != entry.identity:
            yield f"model {model.name} here is not the one that was backed up ({here.identity[:24]} instead of {entry.identity[:24]})"


_ASPECTS: dict[str, Callable[[Path, Manifest], Iterator[str]]] = {
    "files": faults_of_files,
    "spec": faults_of_spec,
    "keys and certificates": faults_of_keys,
    "tokens": faults_of_tokens,
    "ledger": faults_of_ledger,
}
"""What is looked at, in this order."""


def _aspects_of(manifest: Manifest) -> dict[str, Callable[[Path, Manifest], Iterator[str]]]:
    return {**_ASPECTS, **({"deploys and releases": faults_of_cluster} if is_of_cluster(manifest) else {})}


def _looked(look: Callable[[Path, Manifest], Iterator[str]], tree: Path, manifest: Manifest) -> Iterator[str]:
    """What cannot even be read is a fault as well."""
    try:
        yield from look(tree, manifest)
    except KivaError as error:
        yield error.message
    except FileNotFoundError as error:
        yield f"{error.filename} is missing"
    except OSError as error:
        yield f"{error.filename} cannot be read: {error.strerror}"


def _layout(tree: Path) -> Layout:
    return Layout(tree / "state", tree / "models")
