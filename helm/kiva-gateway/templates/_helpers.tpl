{{/* Name of everything: the release's, which must be able to name a Service. */}}
{{- define "kiva-gateway.name" -}}
{{- $name := .Values.name | default .Release.Name -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]{0,51}[a-z0-9])?$" $name) -}}
{{- fail (printf "the release's name '%s' cannot name a Service: it needs 1 to 53 lower-case letters, digits and dashes, a letter first" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* What finds the gateway's pods; never changes. */}}
{{- define "kiva-gateway.selectorLabels" -}}
app.kubernetes.io/name: kiva-gateway
app.kubernetes.io/instance: {{ include "kiva-gateway.name" . }}
app.kubernetes.io/component: gateway
{{- end -}}

{{/* Labels of pods besides those that find them. No chart version: a new chart that changes nothing restarts nothing. */}}
{{- define "kiva-gateway.belonging" -}}
app.kubernetes.io/part-of: kiva
app.kubernetes.io/managed-by: {{ .Release.Service }}
kiva/platform: {{ .Values.platform | quote }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Name, namespace and labels of an object. Takes {root, name}. */}}
{{- define "kiva-gateway.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "kiva-gateway.selectorLabels" .root | nindent 2 }}
  {{- include "kiva-gateway.belonging" .root | nindent 2 }}
  helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{/* Name of the ConfigMap with a file. Takes {root, file}. Files differ within their first nine letters. */}}
{{- define "kiva-gateway.configMap" -}}
{{- printf "%s-%s" (include "kiva-gateway.name" .root) (trimSuffix ".json" .file) | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Name of the Secret with the certificate. */}}
{{- define "kiva-gateway.tlsSecret" -}}
{{- .Values.tls.secret | default (printf "%s-tls" (include "kiva-gateway.name" .)) -}}
{{- end -}}

{{/* Port of the Service. */}}
{{- define "kiva-gateway.port" -}}
{{- .Values.expose.port | default .Values.ports.https | int -}}
{{- end -}}

{{/* Fewest gateways that there are. */}}
{{- define "kiva-gateway.fewest" -}}
{{- if .Values.autoscaling.enabled }}{{ .Values.autoscaling.min }}{{ else }}{{ .Values.replicas }}{{ end -}}
{{- end -}}

{{/* Name of the claim of a ledger in a file; nothing when it is elsewhere. */}}
{{- define "kiva-gateway.ledgerClaim" -}}
{{- with .Values.meter -}}
{{- if .orders -}}
{{- if .stateClaim.claim }}{{ .stateClaim.claim }}{{ else if .stateClaim.create }}{{ include "kiva-gateway.name" $ }}-ledger{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Request and limit of a container. Takes {cpu, memory}. */}}
{{- define "kiva-gateway.resources" -}}
requests:
  cpu: {{ .cpu | quote }}
  memory: {{ .memory }}
limits:
  memory: {{ .memory }}
{{- end -}}

{{- define "kiva-gateway.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Name resolution in the cluster, also where each node has a cache of its own; not the cloud's metadata. */}}
{{- define "kiva-gateway.dns" -}}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: kube-system
    - ipBlock:
        cidr: 169.254.0.0/16
        except: [169.254.169.254/32]
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end -}}
