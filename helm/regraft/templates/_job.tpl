{{/* What a RayJob runs, and what becomes of it. */}}

{{/* A word of a shell command, whatever is in it. */}}
{{- define "regraft.word" -}}
'{{ . | replace "'" "'\\''" }}'
{{- end }}

{{- define "regraft.entrypoint" -}}
{{- $words := list "regraft" .Values.job.command -}}
{{- if eq .Values.job.command "predict" -}}
  {{- with .Values.job.predict }}{{ $words = concat $words (list .model .input "--output" .output) }}{{ end -}}
  {{- $words = concat $words (list "--store" .Values.store) -}}
{{- else -}}
  {{- $words = append $words "/etc/regraft/job/spec.yaml" -}}
  {{- if .Values.store }}{{ $words = concat $words (list "--store" .Values.store) }}{{ end -}}
  {{- range .Values.job.set }}{{ $words = concat $words (list "--set" .) }}{{ end -}}
  {{- if .Values.job.fresh }}{{ $words = append $words "--fresh" }}{{ end -}}
{{- end -}}
{{- $quoted := list -}}
{{- range $words }}{{ $quoted = append $quoted (regexMatch "^[A-Za-z0-9@%_+=:,./-]+$" . | ternary . (include "regraft.word" .)) }}{{ end -}}
{{- join " " $quoted -}}
{{- end }}

{{/* Rules exclude the plain switch, and Kueue asks for the switch: so rules only where they say more than it can. */}}
{{- define "regraft.cleanup" -}}
{{- $cleanup := .Values.job.cleanup -}}
{{- $after := int $cleanup.afterSeconds -}}
{{- $failed := int $cleanup.failedAfterSeconds -}}
{{- $self := int $cleanup.selfAfterSeconds -}}
{{- if and (lt $failed 0) (lt $self 0) -}}
shutdownAfterJobFinishes: true
ttlSecondsAfterFinished: {{ $after }}
{{- else -}}
{{- $failed = ternary $after $failed (lt $failed 0) -}}
deletionStrategy:
  deletionRules:
    {{- range $condition := list (list "jobStatus" "SUCCEEDED" $after) (list "jobStatus" "FAILED" $failed) (list "jobDeploymentStatus" "Failed" $failed) }}
    - policy: DeleteCluster
      condition:
        {{ index $condition 0 }}: {{ index $condition 1 }}
        ttlSeconds: {{ index $condition 2 }}
    {{- if ge $self 0 }}
    - policy: DeleteSelf
      condition:
        {{ index $condition 0 }}: {{ index $condition 1 }}
        ttlSeconds: {{ $self }}
    {{- end }}
    {{- end }}
{{- end }}
{{- end }}
