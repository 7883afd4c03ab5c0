{{/* What cannot work is refused before it is tried, each with the key that is to blame. */}}
{{- define "kiva-gateway.refusals" -}}
{{- $values := .Values -}}
{{- if not $values.image.reference -}}
{{- fail "image.reference is empty: name the gateway's image by its digest, registry/name@sha256:..." -}}
{{- end -}}
{{- if and $values.meter.orders (not $values.tools.reference) -}}
{{- fail "tools.reference is empty: name the image of the meter by its digest, or leave `meter.orders` empty" -}}
{{- end -}}
{{- range $key, $image := dict "image.reference" $values.image.reference "tools.reference" $values.tools.reference -}}
{{- if and $image (not $values.image.unpinned) (not (regexMatch "@sha256:[0-9a-f]{64}$" $image)) -}}
{{- fail (printf "%s '%s' has no digest (@sha256: and 64 digits), so nobody knows what will run; `image.unpinned: true` allows that for development" $key $image) -}}
{{- end -}}
{{- end -}}
{{- range $name := list "bootstrap" "listeners" "clusters" "routes" "certificate" "authentication" "revoked" "admission" "limits" "quota" -}}
{{- if not (hasKey $values.files (printf "%s.json" $name)) -}}
{{- fail (printf "files lacks %s.json; `kivactl render` writes all of them" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $text := $values.files -}}
{{- if gt (len $text) 1048000 -}}
{{- fail (printf "files.%s has %d bytes, and a ConfigMap holds 1048576" (replace "." "\\." $name) (len $text)) -}}
{{- end -}}
{{- end -}}
{{- with $values.meter.stateClaim -}}
{{- if and (or .create .claim) (or $values.autoscaling.enabled (gt (int $values.replicas) 1)) -}}
{{- fail "meter.stateClaim: a ledger in a file belongs to one gateway; keep it on PostgreSQL (`usage.ledger` of the spec), or set replicas: 1" -}}
{{- end -}}
{{- if and .create .claim -}}
{{- fail "meter.stateClaim: `claim` names one that is there, so `create` must be false" -}}
{{- end -}}
{{- end -}}
{{- if and $values.tls.certManager.issuer $values.tls.externalSecret.store -}}
{{- fail "tls: either cert-manager makes the certificate or External Secrets fetches it" -}}
{{- end -}}
{{- if and $values.tls.externalSecret.store (not $values.tls.externalSecret.key) -}}
{{- fail "tls.externalSecret.key is empty: name the entry of the store with `tls.crt` and `tls.key`" -}}
{{- end -}}
{{- with $values.expose -}}
{{- if has .kind (list "ingress" "gateway-api") -}}
{{- if not .host -}}
{{- fail (printf "expose.host is empty: %s needs the DNS name under which clients reach the gateway" .kind) -}}
{{- end -}}
{{- if .allowed -}}
{{- fail (printf "expose.allowed cannot be kept with %s, behind which the gateway does not see where clients are: restrict them there" .kind) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .kind "gateway-api") (not (regexMatch "^[^/]+/[^/]+(/[^/]+)?$" .class)) -}}
{{- fail "expose.class must be the Gateway as NAMESPACE/NAME or NAMESPACE/NAME/LISTENER" -}}
{{- end -}}
{{- if and (eq .kind "node-port") .class -}}
{{- fail "expose.class means nothing for node-port" -}}
{{- end -}}
{{- end -}}
{{- if and $values.autoscaling.enabled (gt (int $values.autoscaling.min) (int $values.autoscaling.max)) -}}
{{- fail "autoscaling.min is more than autoscaling.max" -}}
{{- end -}}
{{- end -}}
