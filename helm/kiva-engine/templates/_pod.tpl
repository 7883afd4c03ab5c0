{{/* The argv of an engine. Takes {root, role}: "engine" (a pod of its own), "leader" or "worker". */}}
{{- define "kiva-engine.command" -}}
{{- $values := .root.Values -}}
{{- if and (eq .role "worker") $values.multiNode.workerCommand -}}
{{ toYaml $values.multiNode.workerCommand }}
{{- else if and (ne .role "worker") $values.command -}}
{{ toYaml $values.command }}
{{- else -}}
- python3
- -m
{{- if eq .role "worker" }}
{{- /* Only `vllm serve` knows --headless; the module of the API server would serve all the same. */}}
- vllm.entrypoints.cli.main
- serve
- --headless
{{- else }}
- vllm.entrypoints.openai.api_server
- --host
- 0.0.0.0
- --port
- {{ $values.port | quote }}
{{- end }}
- --model
- /models
- --served-model-name
- {{ $values.model.name }}
- --middleware
- kivactl.stack.inside.Inside
- --middleware
- kivactl.usage.count.CountUsage
- --scheduling-policy
- priority
- --shutdown-timeout
- {{ $values.drain.seconds | quote }}
{{- if ne .role "engine" }}
- --distributed-executor-backend
- mp
- --nnodes
- {{ $values.multiNode.pods | quote }}
- --node-rank
- {{ ternary "$(LWS_WORKER_INDEX)" "0" (eq .role "worker") | quote }}
- --master-addr
- $(LWS_LEADER_ADDRESS)
{{- end }}
{{- end -}}
{{- end -}}

{{/* What the engine is told by its environment, the user's word last. */}}
{{- define "kiva-engine.engineEnvironment" -}}
{{- $own := dict
    "HOME" "/cache"
    "USER" "kiva"
    "VLLM_CACHE_ROOT" "/cache/vllm"
    "KIVA_MODEL" .Values.model.name
    "KIVA_MODEL_IDENTITY" .Values.model.identity
    "KIVA_USAGE_LOG" "/usage/usage.jsonl"
    "KIVA_PROBE_S" (divf .Values.stalled.afterSeconds 3 | toString)
    "HF_HUB_OFFLINE" "1"
    "HF_HUB_DISABLE_TELEMETRY" "1"
    "DO_NOT_TRACK" "1"
    "VLLM_NO_USAGE_STATS" "1"
    "VLLM_SKIP_MODEL_NAME_VALIDATION" "1"
    "VLLM_LOGGING_COLOR" "0" -}}
{{- /* First, because others may refer to it. */ -}}
- name: KIVA_REPLICA
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- include "kiva-engine.environment" (dict "plain" (merge (dict) .Values.environment $own) "secret" .Values.secretEnvironment) }}
{{- end -}}

{{/* Only a generated token is proof: /health says 200 before the model is loaded and long after it has stalled. */}}
{{- define "kiva-engine.probe" -}}
httpGet:
  path: /kiva/generating
  port: http
timeoutSeconds: {{ .Values.stalled.probeTimeoutSeconds }}
{{- end -}}

{{/* Seconds a pod has to end. Takes the root. */}}
{{- define "kiva-engine.graceSeconds" -}}
{{- add .Values.drain.settleSeconds .Values.drain.seconds 15 -}}
{{- end -}}

{{/* The pods: metadata and spec. Takes {root, role} as above. */}}
{{- define "kiva-engine.pod" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- $answers := ne .role "worker" -}}
metadata:
  labels:
    {{- include "kiva-engine.selectorLabels" $root | nindent 4 }}
    {{- include "kiva-engine.belonging" $root | nindent 4 }}
    {{- if ne .role "engine" }}
    kiva/role: {{ .role }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: engine
    kiva/identity: {{ $values.model.identity | quote }}
    kiva/version: {{ $values.model.version | quote }}
    {{- with $values.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "kiva-engine.podBase" $root | nindent 2 }}
  {{- with $values.runtimeClass }}
  runtimeClassName: {{ . }}
  {{- end }}
  terminationGracePeriodSeconds: {{ include "kiva-engine.graceSeconds" $root }}
  {{- if and $values.placement.spread $answers }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: {{ $values.placement.spread }}
      # On a cluster of one node they still start.
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "kiva-engine.answering" $root | nindent 10 }}
      {{- if eq .role "engine" }}
      # New pods are spread among themselves: the old ones next to them are about to go.
      matchLabelKeys: [pod-template-hash]
      {{- end }}
  {{- end }}
  {{- $loader := include "kiva-engine.loader" $root }}
  {{- if $loader }}
  initContainers:
    {{- if eq $loader "job" }}
    {{- include "kiva-engine.waitContainer" $root | nindent 4 }}
    {{- else }}
    {{- include "kiva-engine.loadContainer" $root | nindent 4 }}
    {{- end }}
  {{- end }}
  containers:
    - name: engine
      image: {{ $values.image.reference }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      command:
        {{- include "kiva-engine.command" . | nindent 8 }}
      env:
        {{- include "kiva-engine.engineEnvironment" $root | nindent 8 }}
      {{- if $answers }}
      ports:
        - name: http
          containerPort: {{ $values.port }}
          protocol: TCP
      startupProbe:
        {{- include "kiva-engine.probe" $root | nindent 8 }}
        periodSeconds: 10
        failureThreshold: {{ divf $values.startup.budgetSeconds 10 | ceil | int | max 1 }}
        # What never generated has nothing to finish.
        terminationGracePeriodSeconds: {{ add $values.drain.settleSeconds 15 }}
      readinessProbe:
        {{- include "kiva-engine.probe" $root | nindent 8 }}
        periodSeconds: 5
        failureThreshold: {{ divf $values.stalled.afterSeconds 5 | ceil | int | max 1 }}
      livenessProbe:
        {{- include "kiva-engine.probe" $root | nindent 8 }}
        periodSeconds: 10
        # Long after the gateway has left it alone: a restart costs minutes, and a busy engine is no dead one.
        failureThreshold: {{ mulf $values.stalled.afterSeconds 0.4 | ceil | int | max 6 }}
        # What has stalled will not finish either.
        terminationGracePeriodSeconds: {{ add $values.drain.settleSeconds 15 }}
      {{- end }}
      lifecycle:
        preStop:
          exec:
            {{- if $answers }}
            # Until every gateway knows that this pod goes: what arrives meanwhile is answered.
            command: [sleep, {{ $values.drain.settleSeconds | quote }}]
            {{- else }}
            # The first pod of the engine drains as long as this; without the others it could not finish a single request.
            command: [sleep, {{ add $values.drain.settleSeconds $values.drain.seconds | quote }}]
            {{- end }}
      resources:
        requests:
          cpu: {{ $values.resources.cpu | quote }}
          memory: {{ $values.resources.memory }}
          ephemeral-storage: {{ $values.resources.ephemeralStorage }}
          {{- with $values.resources.gpu }}
          {{- if .count }}
          {{ .resource }}: {{ .count }}
          {{- end }}
          {{- end }}
        limits:
          memory: {{ $values.resources.memory }}
          {{- with $values.resources.gpu }}
          {{- if .count }}
          {{ .resource }}: {{ .count }}
          {{- end }}
          {{- end }}
      securityContext:
        {{- include "kiva-engine.containerSecurity" $root | nindent 8 }}
      terminationMessagePolicy: FallbackToLogsOnError
      volumeMounts:
        {{- if ne $values.storage.kind "none" }}
        {{- include "kiva-engine.modelMount" (dict "root" $root "readOnly" true) | nindent 8 }}
        {{- end }}
        - name: tmp
          mountPath: /tmp
        - name: cache
          mountPath: /cache
        - name: usage
          mountPath: /usage
        - name: shared-memory
          mountPath: /dev/shm
  volumes:
    {{- if ne $values.storage.kind "none" }}
    {{- include "kiva-engine.modelVolume" $root | nindent 4 }}
    {{- end }}
    {{- range $name, $size := $values.resources.scratch }}
    - name: {{ $name }}
      emptyDir:
        sizeLimit: {{ $size }}
    {{- end }}
    - name: shared-memory
      emptyDir:
        medium: Memory
        sizeLimit: {{ $values.resources.sharedMemory }}
{{- end -}}
