{{/* Where everything is made. */}}
{{- define "kiva-monitoring.namespace" -}}
{{ .Values.namespace | default .Release.Namespace }}
{{- end }}

{{/* Labels of everything. */}}
{{- define "kiva-monitoring.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: kiva
app.kubernetes.io/component: monitoring
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
kiva/platform: {{ .Values.platform | quote }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Metadata: a list of the root context, a name, further labels, further annotations. */}}
{{- define "kiva-monitoring.metadata" -}}
{{- $root := index . 0 -}}
metadata:
  name: {{ index . 1 }}
  namespace: {{ include "kiva-monitoring.namespace" $root }}
  labels:
    {{- include "kiva-monitoring.labels" $root | nindent 4 }}
    {{- with index . 2 }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with merge (dict) (index . 3) $root.Values.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* What the platform promises and must have, as series that the rules compare with. */}}
{{- define "kiva-monitoring.levels" -}}
groups:
  - name: {{ printf "kiva-levels-%s" .Values.platform }}
    rules:
      {{- range $name, $level := dict "ttft_p95_seconds" .Values.levels.ttft_p95_s "tpot_p95_seconds" .Values.levels.tpot_p95_s "error_ratio" .Values.levels.error_ratio }}
      - record: kiva:level:{{ $name }}
        expr: vector({{ $level }})
        labels:
          platform: {{ $.Values.platform | quote }}
      {{- end }}
      {{- range .Values.models }}
      {{- $model := kindIs "string" . | ternary (dict "name" . "replicas" 1) . }}
      - record: kiva:replicas_expected
        expr: vector({{ $model.replicas }})
        labels:
          platform: {{ $.Values.platform | quote }}
          model_name: {{ $model.name | quote }}
      {{- end }}
{{- end }}

{{/* The labels that the rules need, from those of the pods; of plain Prometheus and of the operator: a list of the key for source labels, the key for the target label. */}}
{{- define "kiva-monitoring.relabelings" -}}
{{- $source := index . 0 -}}
{{- $target := index . 1 -}}
{{- range $label, $meta := dict "platform" "pod_label_kiva_platform" "component" "pod_label_app_kubernetes_io_component" "model" "pod_label_kiva_model" "namespace" "namespace" "pod" "pod_name" "instance" "pod_name" }}
- {{ $source }}: [__meta_kubernetes_{{ $meta }}]
  {{ $target }}: {{ $label }}
{{- end }}
{{- end }}

{{/* Name of the container port with the metrics of a component. */}}
{{- define "kiva-monitoring.port" -}}
{{ eq . "engine" | ternary "http" "metrics" }}
{{- end }}

{{/* The rules, for this platform only. */}}
{{- define "kiva-monitoring.rules" -}}
{{ .Files.Get "rules/kiva.rules.yaml" | replace "platform!=\"\"" (printf "platform=%q" .Values.platform) | trim }}
{{- end }}
