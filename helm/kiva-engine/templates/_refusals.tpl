{{/* What cannot work is refused before it is tried, each with the key that is to blame. */}}
{{- define "kiva-engine.refusals" -}}
{{- $values := .Values -}}
{{- $scales := include "kiva-engine.autoscales" . -}}
{{- $most := int (include "kiva-engine.most" .) -}}
{{- $nodes := gt (int $values.multiNode.pods) 1 -}}
{{- range $key, $image := dict "image.reference" $values.image.reference "storage.image" (ternary $values.storage.image "" (eq $values.storage.kind "image")) -}}
{{- if and $image (not $values.image.unpinned) (not (regexMatch "@sha256:[0-9a-f]{64}$" $image)) -}}
{{- fail (printf "%s '%s' has no digest (@sha256: and 64 digits), so nobody knows what will run; `image.unpinned: true` allows that for development" $key $image) -}}
{{- end -}}
{{- end -}}
{{- if not $values.image.reference -}}
{{- fail "image.reference is empty: name the engine's image by its digest, registry/name@sha256:..." -}}
{{- end -}}
{{- range $name, $from := $values.secretEnvironment -}}
{{- if hasKey $values.environment $name -}}
{{- fail (printf "the variable %s is in environment and in secretEnvironment" $name) -}}
{{- end -}}
{{- end -}}
{{- if hasKey $values.environment "KIVA_REPLICA" -}}
{{- fail "environment.KIVA_REPLICA is the pod's name, which only the pod knows" -}}
{{- end -}}
{{- $probe := get $values.environment "KIVA_PROBE_S" | default (divf $values.stalled.afterSeconds 3 | toString) -}}
{{- if ge (float64 $probe) (float64 $values.stalled.probeTimeoutSeconds) -}}
{{- fail (printf "stalled.probeTimeoutSeconds (%v) must be more than the engine's own KIVA_PROBE_S (%s), or no check is ever answered in time" $values.stalled.probeTimeoutSeconds $probe) -}}
{{- end -}}
{{- range $index, $word := $values.command -}}
{{- if eq $word "--shutdown-timeout" -}}
{{- $timeout := index $values.command (add1 $index) -}}
{{- if gt (float64 $timeout) (float64 $values.drain.seconds) -}}
{{- fail (printf "the engine drains for %s s (--shutdown-timeout in command), but is killed after drain.seconds (%v)" $timeout $values.drain.seconds) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (eq $values.strategy.kind "rolling") (not $values.strategy.maxSurge) (not $values.strategy.maxUnavailable) -}}
{{- fail "strategy.maxSurge and strategy.maxUnavailable are both 0: no new version could ever take over" -}}
{{- end -}}
{{- if and $values.disruptionBudget.enabled (gt $most 1) (ge (int $values.disruptionBudget.maxUnavailable) (mul $most (int $values.multiNode.pods))) -}}
{{- fail (printf "disruptionBudget.maxUnavailable (%v) lets all %d engines go at once" $values.disruptionBudget.maxUnavailable $most) -}}
{{- end -}}
{{- if $scales -}}
{{- if gt (int $values.autoscaling.min) (int $values.autoscaling.max) -}}
{{- fail (printf "autoscaling.min (%v) is more than autoscaling.max (%v)" $values.autoscaling.min $values.autoscaling.max) -}}
{{- end -}}
{{- if and (eq $values.autoscaling.kind "hpa") (lt (int $values.autoscaling.min) 1) -}}
{{- fail "autoscaling.min is 0: only keda scales to zero" -}}
{{- end -}}
{{- if and (eq $values.autoscaling.kind "keda") (not $values.autoscaling.prometheus) -}}
{{- fail "autoscaling.prometheus is empty: keda asks Prometheus, so it needs its address" -}}
{{- end -}}
{{- end -}}
{{- with $values.storage -}}
{{- if and (eq .kind "claim") (not .create) (not .claim) -}}
{{- fail "storage.claim is empty: without `create: true` it names the claim that is there" -}}
{{- end -}}
{{- if and (eq .kind "claim") .create (eq .access "ReadOnlyMany") -}}
{{- fail "storage.access ReadOnlyMany: nobody could ever fill a claim that is made here" -}}
{{- end -}}
{{- if and (eq .kind "host-path") (not .hostPath) -}}
{{- fail "storage.hostPath is empty: kind host-path needs the folder of the nodes" -}}
{{- end -}}
{{- if and (eq .kind "image") (not .image) -}}
{{- fail "storage.image is empty: kind image needs the image with the model's files" -}}
{{- end -}}
{{- if and $nodes (eq .kind "claim") (eq .access "ReadWriteOnce") -}}
{{- fail "storage.access ReadWriteOnce: the pods of an engine over several nodes cannot all have it (multiNode.pods)" -}}
{{- end -}}
{{- end -}}
{{- if $values.preload.enabled -}}
{{- if not $values.preload.command -}}
{{- fail "preload.command is empty: nothing would be loaded" -}}
{{- end -}}
{{- if or (has $values.storage.kind (list "image" "none")) (and (eq $values.storage.kind "claim") (eq $values.storage.access "ReadOnlyMany")) -}}
{{- fail (printf "preload.enabled: storage of kind %s with access %s cannot be written to" $values.storage.kind $values.storage.access) -}}
{{- end -}}
{{- end -}}
{{- if $nodes -}}
{{- if gt (len (include "kiva-engine.name" .)) 45 -}}
{{- fail (printf "the release's name '%s' is too long for an engine over several nodes: at most 45 characters" (include "kiva-engine.name" .)) -}}
{{- end -}}
{{- if and $values.command (not $values.multiNode.workerCommand) -}}
{{- fail "multiNode.workerCommand is empty: with a command of its own an engine over several nodes needs one for the other pods too" -}}
{{- end -}}
{{- end -}}
{{- end -}}
