{{/* Labels of everything. */}}
{{- define "kiva.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: kiva
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
kiva/platform: {{ .Values.platform | quote }}
kiva/environment: {{ .Values.environment | quote }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What an object is called among those of all environments: a list of the root context and a name. */}}
{{- define "kiva.name" -}}
{{- $name := printf "%s-%s" (index . 0).Values.environment (index . 1) -}}
{{- if gt (len $name) 63 }}{{ printf "%s-%s" (trunc 56 $name) (trunc 6 (sha256sum $name)) }}{{ else }}{{ $name }}{{ end }}
{{- end }}

{{/* Whether the charts lie in a registry. */}}
{{- define "kiva.registry" -}}
{{- if hasPrefix "oci://" .Values.charts.repository }}true{{ end }}
{{- end }}

{{/* A chart's folder in the Git repository: a list of the root context and its name. */}}
{{- define "kiva.folder" -}}
{{- $path := (index . 0).Values.charts.path | trimAll "/" -}}
{{ $path | empty | ternary (index . 1) (printf "%s/%s" $path (index . 1)) }}
{{- end }}

{{/* Orders below which nothing of the platform would wait for anything. */}}
{{- define "kiva.below" -}}
{{- $order := index . 1 | int -}}
{{- $below := -1 -}}
{{- range (index . 0).Values.releases }}{{- $one := .order | default 0 | int }}{{- if and (lt $one $order) (gt $one $below) }}{{- $below = $one }}{{- end }}{{- end -}}
{{ $below }}
{{- end }}

{{/* Refuse what would roll out nothing. */}}
{{- define "kiva.check" -}}
{{- if and .Values.releases (not .Values.charts.repository) }}{{ fail "charts.repository: say where the charts lie, oci://... or a Git repository" }}{{ end }}
{{- $seen := dict }}
{{- range .Values.releases }}
{{- if hasKey $seen .name }}{{ fail (printf "releases: two are named %s" .name) }}{{ end }}
{{- $_ := set $seen .name true }}
{{- end }}
{{- end }}
