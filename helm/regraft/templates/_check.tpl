{{/* What no schema can say: values that exclude or need one another. All of it at once: what was written, what to do. */}}
{{- define "regraft.check" -}}
{{- $wrong := list -}}
{{- $v := .Values -}}
{{- $groups := include "regraft.groups" . | fromJson -}}
{{- if and (not $groups) (ne $v.mode "cluster") -}}
  {{- $wrong = append $wrong "workerGroups: none is enabled, and the head takes no work; enable one" -}}
{{- end -}}
{{- $most := 0 -}}
{{- range $name, $group := $groups -}}
  {{- $most = add $most (ternary $group.maxReplicas (max $group.replicas $group.minReplicas) $v.autoscaler.enabled) -}}
  {{- if gt (int $group.minReplicas) (int $group.maxReplicas) -}}
    {{- $wrong = append $wrong (printf "workerGroups.%s: minReplicas is %d and maxReplicas %d; raise one or lower the other" $name (int $group.minReplicas) (int $group.maxReplicas)) -}}
  {{- end -}}
  {{- if gt (int $group.replicas) (int $group.maxReplicas) -}}
    {{- $wrong = append $wrong (printf "workerGroups.%s: replicas is %d and maxReplicas %d; raise one or lower the other" $name (int $group.replicas) (int $group.maxReplicas)) -}}
  {{- end -}}
{{- end -}}
{{- range $name, $group := set $groups "head" $v.head -}}
  {{- $where := eq $name "head" | ternary "head" (printf "workerGroups.%s" $name) -}}
  {{- $memory := include "regraft.mebibytes" $group.memory | int64 -}}
  {{- if ge (include "regraft.sharedMemory" $group | int64) $memory -}}
    {{- $wrong = append $wrong (printf "%s: sharedMemory is %s and counts against memory, %s; give it less" $where $group.sharedMemory $group.memory) -}}
  {{- end -}}
  {{- if lt $memory 1024 -}}
    {{- $wrong = append $wrong (printf "%s: memory is %s; Ray alone needs 1Gi" $where $group.memory) -}}
  {{- end -}}
  {{- if lt (include "regraft.sharedMemory" $group | int64) 128 -}}
    {{- $wrong = append $wrong (printf "%s: sharedMemory is %s; Ray's object store needs 128Mi" $where $group.sharedMemory) -}}
  {{- end -}}
{{- end -}}
{{- $groups = unset $groups "head" -}}
{{- if and (eq $v.mode "job") (not $most) -}}
  {{- $wrong = append $wrong "workerGroups: with the autoscaler off no group has replicas, so the job would wait for ever; set replicas" -}}
{{- end -}}
{{- if and (ne $v.mode "cluster") (not $v.store) -}}
  {{- $wrong = append $wrong (printf "store: is empty; mode %s needs s3://bucket/prefix" $v.mode) -}}
{{- end -}}
{{- if and (ne (empty $v.s3.accessKeyId) (empty $v.s3.secretAccessKey)) (not $v.s3.existingSecret) -}}
  {{- $wrong = append $wrong "s3: accessKeyId and secretAccessKey belong together; write both, or neither" -}}
{{- end -}}
{{- if eq $v.mode "job" -}}
  {{- if and (ne $v.job.command "predict") (not (trim $v.job.spec)) -}}
    {{- $wrong = append $wrong (printf "job.spec: is empty; %s needs one: --set-file job.spec=spec.yaml" $v.job.command) -}}
  {{- end -}}
  {{- if and (eq $v.job.command "predict") (or (not $v.job.predict.model) (not $v.job.predict.input) (not $v.job.predict.output)) -}}
    {{- $wrong = append $wrong "job.predict: predict needs model, input and output" -}}
  {{- end -}}
  {{- $longest := max $v.job.cleanup.afterSeconds $v.job.cleanup.failedAfterSeconds -}}
  {{- if and (ge (int $v.job.cleanup.selfAfterSeconds) 0) (lt (int $v.job.cleanup.selfAfterSeconds) (int $longest)) -}}
    {{- $wrong = append $wrong (printf "job.cleanup: selfAfterSeconds is %d, but the cluster goes after %d; a RayJob does not go before its cluster" (int $v.job.cleanup.selfAfterSeconds) (int $longest)) -}}
  {{- end -}}
{{- end -}}
{{- if eq $v.mode "service" -}}
  {{- if not (or (include "regraft.keysSecret" .) $v.service.openToAll) -}}
    {{- $wrong = append $wrong "service.keys: there are none, and anybody could ask; make some with `regraft key` and name their Secret, or set service.openToAll" -}}
  {{- end -}}
  {{- if gt (int $v.service.scaling.minReplicas) (int $v.service.scaling.maxReplicas) -}}
    {{- $wrong = append $wrong (printf "service.scaling: minReplicas is %d and maxReplicas %d; raise one or lower the other" (int $v.service.scaling.minReplicas) (int $v.service.scaling.maxReplicas)) -}}
  {{- end -}}
  {{- $fits := false -}}
  {{- range $name, $group := $groups -}}
    {{- if and (ge (int $group.cpu) (int $v.service.replica.cpus)) (ge (int $group.gpus) (int $v.service.replica.gpus)) }}{{ $fits = true }}{{ end -}}
  {{- end -}}
  {{- if not $fits -}}
    {{- $wrong = append $wrong (printf "service.replica: no worker group has %d CPUs and %d GPUs on one worker; ask for less or enable such a group" (int $v.service.replica.cpus) (int $v.service.replica.gpus)) -}}
  {{- end -}}
  {{- $names := list -}}
  {{- range $v.service.models -}}
    {{- $name := splitList "@" . | first -}}
    {{- if has $name $names -}}
      {{- $wrong = append $wrong (printf "service.models: %s is written more than once; a name answers by one alias or version" $name) -}}
    {{- end -}}
    {{- $names = append $names $name -}}
  {{- end -}}
  {{- range $alias, $shares := $v.service.aliases -}}
    {{- if and (not (contains "@" $alias)) (or (ne (len $names) 1) (has "*" $names)) -}}
      {{- $wrong = append $wrong (printf "service.aliases.%s: several models are served; write model@%s" $alias $alias) -}}
    {{- end -}}
    {{- $sum := 0.0 -}}
    {{- range $shares }}{{ $sum = addf $sum . }}{{ end -}}
    {{- if or (gt $sum 1.000001) (lt $sum 0.999999) -}}
      {{- $wrong = append $wrong (printf "service.aliases.%s: the shares add up to %v; they make 1" $alias $sum) -}}
    {{- end -}}
  {{- end -}}
  {{- with $v.service.upgrade -}}
    {{- if eq .type "NewClusterWithIncrementalUpgrade" -}}
      {{- if not .gatewayClassName -}}
        {{- $wrong = append $wrong "service.upgrade: the incremental kind needs gatewayClassName" -}}
      {{- end -}}
      {{- if not $v.autoscaler.enabled -}}
        {{- $wrong = append $wrong "service.upgrade: the incremental kind needs autoscaler.enabled" -}}
      {{- end -}}
      {{- if gt (int .stepSizePercent) (int .maxSurgePercent) -}}
        {{- $wrong = append $wrong (printf "service.upgrade: stepSizePercent is %d, over maxSurgePercent, %d" (int .stepSizePercent) (int .maxSurgePercent)) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if and $v.redis.enabled (not $v.redis.address) -}}
  {{- $wrong = append $wrong "redis.address: is empty; write host:port" -}}
{{- end -}}
{{- if $v.kueue.queue -}}
  {{- if $v.autoscaler.enabled -}}
    {{- $wrong = append $wrong "kueue.queue: Kueue admits fixed numbers of workers; set autoscaler.enabled=false and the groups' replicas" -}}
  {{- end -}}
  {{- if gt (len $groups) 7 -}}
    {{- $wrong = append $wrong (printf "kueue.queue: Kueue takes 7 worker groups, and %d are enabled" (len $groups)) -}}
  {{- end -}}
  {{- if and (eq $v.mode "job") (or (ge (int $v.job.cleanup.failedAfterSeconds) 0) (ge (int $v.job.cleanup.selfAfterSeconds) 0)) -}}
    {{- $wrong = append $wrong "job.cleanup: Kueue asks for plain clean-up; leave failedAfterSeconds and selfAfterSeconds at -1" -}}
  {{- end -}}
{{- end -}}
{{- range $where, $labels := dict "serviceAccount.podLabels" $v.serviceAccount.podLabels "podMonitor.labels" $v.podMonitor.labels -}}
  {{- range $name := keys $labels -}}
    {{- if regexMatch "^(app[.]kubernetes[.]io|helm[.]sh|ray[.]io)/" $name -}}
      {{- $wrong = append $wrong (printf "%s: %s belongs to the chart or to KubeRay; use another label" $where $name) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $env := dict "env" $v.env -}}
{{- range $name, $group := $groups }}{{ $_ := set $env (printf "workerGroups.%s.env" $name) $group.env }}{{ end -}}
{{- range $where, $variables := $env -}}
{{- range $name := keys $variables -}}
  {{- if regexMatch "^(RAY_AUTH_|RAY_REDIS_ADDRESS$|REDIS_PASSWORD$|RAY_enable_autoscaler_v2$|KUBERAY_)|(SECRET|PASSWORD|TOKEN|_KEY)$" $name -}}
    {{- $wrong = append $wrong (printf "%s.%s: it is set by KubeRay, or a secret; secrets go into Secrets (s3, hub, auth, redis, service.keys)" $where $name) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
{{- if $wrong -}}
  {{- fail (printf "these values do not work together:\n  - %s" (join "\n  - " $wrong)) -}}
{{- end -}}
{{- end }}
