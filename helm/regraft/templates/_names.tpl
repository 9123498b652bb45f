{{/* What objects are called, and the labels that find them again. */}}

{{/* Name of all objects. KubeRay adds to it, so it takes 53 letters of a RayCluster's and 47 of a RayJob's or RayService's. */}}
{{- define "regraft.fullname" -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name $chart) (contains $chart .Release.Name) -}}
{{- $name = default $name .Values.fullnameOverride | replace "." "-" | lower -}}
{{- if regexMatch "^[^a-z]" $name }}{{ $name = printf "r-%s" $name }}{{ end -}}
{{- trunc (eq .Values.mode "cluster" | ternary 53 47) $name | trimSuffix "-" | trimSuffix "-" -}}
{{- end }}

{{/* Labels that never change: pods are found by them. */}}
{{- define "regraft.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/part-of: regraft
{{- end }}

{{/* Labels of objects, not of pods: a new chart version would restart those. */}}
{{- define "regraft.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
{{ include "regraft.selector" . }}
{{- end }}

{{/* Labels of the Ray object itself; Kueue looks for its queue there. */}}
{{- define "regraft.rayLabels" -}}
{{ include "regraft.labels" . }}
{{- if .Values.kueue.queue }}
kueue.x-k8s.io/queue-name: {{ .Values.kueue.queue | quote }}
{{- end }}
{{- if .Values.kueue.priorityClass }}
kueue.x-k8s.io/priority-class: {{ .Values.kueue.priorityClass | quote }}
{{- end }}
{{- end }}

{{- define "regraft.serviceAccountName" -}}
{{- if .Values.serviceAccount.name }}{{ .Values.serviceAccount.name }}
{{- else if .Values.serviceAccount.create }}{{ include "regraft.fullname" . }}
{{- else }}default
{{- end }}
{{- end }}

{{/* The image of a pod. Call with (root, a group's own tag, a group's own digest). */}}
{{- define "regraft.image" -}}
{{- $ := index . 0 -}}
{{- $digest := or (index . 2) (ternary $.Values.image.digest "" (empty (index . 1))) -}}
{{ $.Values.image.repository }}:{{ coalesce (index . 1) $.Values.image.tag $.Chart.AppVersion }}
{{- if $digest }}@{{ $digest }}{{ end }}
{{- end }}

{{/* Secrets: the user's own, or the one that this chart makes; empty where there is none. */}}
{{- define "regraft.s3Secret" -}}
{{- if .Values.s3.existingSecret }}{{ .Values.s3.existingSecret }}
{{- else if .Values.s3.accessKeyId }}{{ include "regraft.fullname" . }}-s3
{{- end }}
{{- end }}

{{- define "regraft.hubSecret" -}}
{{- if .Values.hub.existingSecret }}{{ .Values.hub.existingSecret }}
{{- else if .Values.hub.token }}{{ include "regraft.fullname" . }}-hub
{{- end }}
{{- end }}

{{- define "regraft.keysSecret" -}}
{{- if .Values.service.keys.existingSecret }}{{ .Values.service.keys.existingSecret }}
{{- else if .Values.service.keys.file }}{{ include "regraft.fullname" . }}-keys
{{- end }}
{{- end }}

{{- define "regraft.redisSecret" -}}
{{- if .Values.redis.existingSecret }}{{ .Values.redis.existingSecret }}
{{- else if .Values.redis.password }}{{ include "regraft.fullname" . }}-redis
{{- end }}
{{- end }}
