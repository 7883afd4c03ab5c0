{{/* Name of the claim with the model's files. */}}
{{- define "kiva-engine.claim" -}}
{{- .Values.storage.claim | default (printf "%s-model" (include "kiva-engine.name" .)) -}}
{{- end -}}

{{/* The volume with the model's files. */}}
{{- define "kiva-engine.modelVolume" -}}
- name: models
  {{- if eq .Values.storage.kind "claim" }}
  persistentVolumeClaim:
    claimName: {{ include "kiva-engine.claim" . }}
  {{- else if eq .Values.storage.kind "host-path" }}
  hostPath:
    path: {{ .Values.storage.hostPath | quote }}
    type: Directory
  {{- else }}
  image:
    reference: {{ .Values.storage.image }}
    pullPolicy: {{ .Values.image.pullPolicy }}
  {{- end }}
{{- end -}}

{{/* Its mount. Takes {root, readOnly}. */}}
{{- define "kiva-engine.modelMount" -}}
- name: models
  mountPath: /models
  readOnly: {{ .readOnly }}
  {{- with .root.Values.storage.subPath }}
  subPath: {{ . }}
  {{- end }}
{{- end -}}

{{/* Who fills the volume: "job", "pod" or nobody. A job fills one node only, so each pod looks after a node's folder itself. */}}
{{- define "kiva-engine.loader" -}}
{{- if .Values.preload.enabled }}{{ if eq .Values.storage.kind "host-path" }}pod{{ else }}job{{ end }}{{ end -}}
{{- end -}}

{{/* The file that says that all of it is there, for exactly what is loaded. */}}
{{- define "kiva-engine.marker" -}}
{{- $what := list .Values.model.identity .Values.preload.command .Values.preload.environment -}}
/models/.kiva-loaded-{{ toJson $what | sha256sum | trunc 16 }}
{{- end -}}

{{/* The container that loads. */}}
{{- define "kiva-engine.loadContainer" -}}
- name: load
  image: {{ .Values.image.reference }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command:
    {{- toYaml .Values.preload.command | nindent 4 }}
  {{- if or .Values.preload.environment .Values.preload.secretEnvironment }}
  env:
    {{- include "kiva-engine.environment" (dict "plain" .Values.preload.environment "secret" .Values.preload.secretEnvironment) | trim | nindent 4 }}
  {{- end }}
  {{- with .Values.preload.resources }}
  resources:
    requests:
      cpu: {{ .cpu | quote }}
      memory: {{ .memory }}
    limits:
      memory: {{ .memory }}
  {{- end }}
  securityContext:
    {{- include "kiva-engine.containerSecurity" . | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    {{- include "kiva-engine.modelMount" (dict "root" . "readOnly" false) | nindent 4 }}
    - name: tmp
      mountPath: /tmp
{{- end -}}

{{/* A container of a few lines of Python. Takes {root, name, code, argument, readOnly}. */}}
{{- define "kiva-engine.smallContainer" -}}
- name: {{ .name }}
  image: {{ .root.Values.image.reference }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command:
    - python3
    - -uc
    - |
      {{- .code | nindent 6 }}
    - {{ .argument }}
  resources:
    requests:
      cpu: 10m
      memory: 128Mi
    limits:
      memory: 128Mi
  securityContext:
    {{- include "kiva-engine.containerSecurity" .root | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    {{- include "kiva-engine.modelMount" (dict "root" .root "readOnly" .readOnly) | nindent 4 }}
{{- end -}}

{{/* Waits in an engine's pod until the job has loaded the model: outside the time that the engine has to start. */}}
{{- define "kiva-engine.waitContainer" -}}
{{- $code := `import pathlib, sys, time
marker, waited_s = pathlib.Path(sys.argv[1]), 0
while not marker.exists():
    if waited_s % 60 == 0:
        print(f"waiting for the job that loads the model: {marker} is not there after {waited_s} s")
    time.sleep(2)
    waited_s += 2
print("the model is there")` -}}
{{- include "kiva-engine.smallContainer" (dict "root" . "name" "wait" "code" $code "argument" (include "kiva-engine.marker" .) "readOnly" true) -}}
{{- end -}}

{{/* Notes that all of the model is there, after the container that loads. */}}
{{- define "kiva-engine.markContainer" -}}
{{- $code := `import pathlib, sys
pathlib.Path(sys.argv[1]).touch()` -}}
{{- include "kiva-engine.smallContainer" (dict "root" . "name" "mark" "code" $code "argument" (include "kiva-engine.marker" .) "readOnly" false) -}}
{{- end -}}
