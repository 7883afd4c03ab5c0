{{/* Name of everything: the release's, which must be able to name a Service. */}}
{{- define "kiva-engine.name" -}}
{{- $name := .Values.name | default .Release.Name -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]{0,51}[a-z0-9])?$" $name) -}}
{{- fail (printf "the release's name '%s' cannot name a Service: it needs 1 to 53 lower-case letters, digits and dashes, a letter first" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* What finds the engines' pods; never changes. */}}
{{- define "kiva-engine.selectorLabels" -}}
app.kubernetes.io/name: kiva-engine
app.kubernetes.io/instance: {{ include "kiva-engine.name" . }}
app.kubernetes.io/component: engine
{{- end -}}

{{/* What finds the pods that answer: of an engine over several nodes, the first of each. */}}
{{- define "kiva-engine.answering" -}}
{{ include "kiva-engine.selectorLabels" . }}
{{- if gt (int .Values.multiNode.pods) 1 }}
kiva/role: leader
{{- end }}
{{- end -}}

{{/* What finds the pods of the job that loads. */}}
{{- define "kiva-engine.preloadSelector" -}}
app.kubernetes.io/name: kiva-engine
app.kubernetes.io/instance: {{ include "kiva-engine.name" . }}
app.kubernetes.io/component: preload
{{- end -}}

{{/* Labels of pods besides those that find them. No chart version: a new chart that changes nothing restarts nothing. */}}
{{- define "kiva-engine.belonging" -}}
app.kubernetes.io/part-of: kiva
app.kubernetes.io/managed-by: {{ .Release.Service }}
kiva/platform: {{ .Values.platform | quote }}
kiva/model: {{ .Values.model.name | quote }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of objects. */}}
{{- define "kiva-engine.labels" -}}
{{ include "kiva-engine.selectorLabels" . }}
{{ include "kiva-engine.belonging" . }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.model.version }}
app.kubernetes.io/version: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Name, namespace and labels of an object. Takes {root, name}. */}}
{{- define "kiva-engine.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "kiva-engine.labels" .root | nindent 2 }}
{{- end -}}

{{/* Environment of a container. Takes {plain, secret}. */}}
{{- define "kiva-engine.environment" -}}
{{- range $name, $value := .plain }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- range $name, $from := .secret }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $from.secret }}
      key: {{ $from.key }}
{{- end }}
{{- end -}}

{{/* The standard `restricted`, and a user that is fixed. Files of a volume change their group once, not at each start: that takes hours. */}}
{{- define "kiva-engine.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "kiva-engine.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What all pods of the release have in common. */}}
{{- define "kiva-engine.podBase" -}}
serviceAccountName: {{ include "kiva-engine.name" . }}
automountServiceAccountToken: false
# A Service named vllm would set VLLM_PORT, and that is not its only trap.
enableServiceLinks: false
{{- with .Values.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "kiva-engine.podSecurity" . | nindent 2 }}
{{- with .Values.placement.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.placement.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.placement.priorityClass }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Whether a load decides how many engines there are: "yes" or nothing. */}}
{{- define "kiva-engine.autoscales" -}}
{{- if ne .Values.autoscaling.kind "none" }}yes{{ end -}}
{{- end -}}

{{/* The most engines that there are at a time. */}}
{{- define "kiva-engine.most" -}}
{{- if include "kiva-engine.autoscales" . }}{{ .Values.autoscaling.max }}{{ else }}{{ .Values.replicas }}{{ end -}}
{{- end -}}

{{/* Name of the workload. LeaderWorkerSet makes a Service of its own name, which must not be the engines'. */}}
{{- define "kiva-engine.workload" -}}
{{- $name := include "kiva-engine.name" . -}}
{{- if gt (int .Values.multiNode.pods) 1 }}{{ $name }}-lws{{ else }}{{ $name }}{{ end -}}
{{- end -}}

{{/* What an autoscaler scales. */}}
{{- define "kiva-engine.scaleTarget" -}}
{{- if gt (int .Values.multiNode.pods) 1 -}}
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
{{- else -}}
apiVersion: apps/v1
kind: Deployment
{{- end }}
name: {{ include "kiva-engine.workload" . }}
{{- end -}}

{{/* Name resolution in the cluster, also where each node has a cache of its own; not the cloud's metadata. */}}
{{- define "kiva-engine.dns" -}}
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
