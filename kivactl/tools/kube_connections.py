"""The connections to an API server: TLS, proxies, and how many are kept.

The package's own would do, but loading it takes longer than all else of a plan: it has a module for each type of Kubernetes' API, and none of them
is used here. What it adds to urllib3 is which proxy is asked, and keys that it leaves in files; here they lie on disk only for the moment in which
OpenSSL reads them.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from kivactl.errors import PreconditionError
from kivactl.tools.kube_access import Access

CONNECTIONS = 32
"""Connections kept to one API server; more are made where more threads ask at once, and closed afterwards."""


def pool_for(access: Access) -> Any:
    """The connections to a cluster: a `urllib3.PoolManager`, or one that goes through a proxy.

    Raises:
        PreconditionError: A certificate or key is none.
    """
    from urllib3 import PoolManager, ProxyManager, disable_warnings
    from urllib3.exceptions import InsecureRequestWarning

    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns of every connection above those that are kept
    if not access.verified:  # as the kubeconfig says; one warning for each request helps nobody
        disable_warnings(InsecureRequestWarning)
    context = ssl_context(access)
    kept: dict[str, Any] = {"maxsize": CONNECTIONS, "cert_reqs": ssl.CERT_REQUIRED if access.verified else ssl.CERT_NONE}
    kept |= {"ssl_context": context} if context is not None else {}
    kept |= {"server_hostname": access.server_name} if access.server_name else {}
    proxy = proxy_for(access)
    if proxy.lower().startswith("socks"):
        from urllib3.contrib.socks import SOCKSProxyManager

        return SOCKSProxyManager(proxy, **kept)
    return ProxyManager(proxy, **kept) if proxy else PoolManager(**kept)


def proxy_for(access: Access) -> str:
    """The proxy to ask: the kubeconfig's, or one of the environment; empty for none, also where `NO_PROXY` names the server."""
    environment = getproxies()
    proxy = access.proxy or environment.get(urlsplit(access.server).scheme) or environment.get("all") or ""
    return "" if spared(access.server, environment.get("no", "")) else proxy


def spared(server: str, rules: str) -> bool:
    """Whether a server is asked without a proxy.

    Args:
        server: Its URL.
        rules: As `NO_PROXY` has them: names and those below them, addresses, networks, `*`; separated by commas.
    """
    place = urlsplit(server)
    host, with_port = (place.hostname or "").lower(), place.netloc.lower()
    for rule in filter(None, (one.strip().lower() for one in rules.split(","))):
        with suppress(ValueError):  # a name, on either side
            if ipaddress.ip_address(host) in ipaddress.ip_network(rule, strict=False):
                return True
        name = rule.lstrip(".")
        if rule == "*" or name in (host, with_port) or host.endswith(f".{name}") or with_port.endswith(f".{name}"):
            return True
    return not host


def ssl_context(access: Access) -> ssl.SSLContext | None:
    """How TLS is spoken; None for a server without.

    Raises:
        PreconditionError: A certificate or key is none.
    """
    if access.server.startswith("http://"):
        return None
    try:
        context = ssl.create_default_context(cadata=access.authority or None)
    except (ssl.SSLError, ValueError):
        raise PreconditionError(f"the `certificate-authority` of the cluster of context '{access.context}' holds no certificate") from None
    # Python 3.13 asks of authorities what kubectl does not, and what those of many clusters have not.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    if not access.verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    with certificate_files(access) as files:
        if files is not None:
            try:
                context.load_cert_chain(*files)
            except (ssl.SSLError, OSError):
                raise PreconditionError(f"the client certificate of context '{access.context}' and its key do not go together") from None
    return context


@contextmanager
def certificate_files(access: Access) -> Iterator[tuple[Path, Path] | None]:
    """The client certificate and its key as files, for as long as it takes to read them; None without."""
    pair = access.credentials.certificate
    if pair is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="kivactl-") as folder:  # mode 0700
        files = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        files[0].write_text(pair.certificate)
        files[1].touch(mode=0o600)
        files[1].write_text(pair.key.reveal())
        yield files


def configuration_for(access: Access) -> Any:
    """The package's configuration, for its WebSocket client: server, proxies and names, without credentials."""
    from kubernetes.client.configuration import Configuration

    configuration = Configuration(host=access.server)
    configuration.verify_ssl = access.verified
    configuration.connection_pool_maxsize = CONNECTIONS
    configuration.tls_server_name = access.server_name or None
    if access.proxy:
        configuration.proxy = access.proxy
    return configuration
