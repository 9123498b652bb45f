{{/* The specification of a Ray cluster, the same in all three kinds. */}}
{{- define "regraft.clusterSpec" -}}
rayVersion: {{ .Values.rayVersion | quote }}
authOptions:
  mode: token
  {{- if .Values.auth.existingSecret }}
  secretName: {{ .Values.auth.existingSecret | quote }}
  {{- end }}
enableInTreeAutoscaling: {{ .Values.autoscaler.enabled }}
{{- if .Values.autoscaler.enabled }}
autoscalerOptions:
  version: v2
  upscalingMode: {{ .Values.autoscaler.upscalingMode }}
  idleTimeoutSeconds: {{ int .Values.autoscaler.idleTimeoutSeconds }}
  imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
  resources:
    {{- range $kind := list "requests" "limits" }}
    {{ $kind }}:
      cpu: {{ $.Values.autoscaler.cpu | quote }}
      memory: {{ $.Values.autoscaler.memory }}
    {{- end }}
  securityContext:
    {{- include "regraft.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: home, mountPath: /home/regraft}
{{- end }}
{{- if .Values.redis.enabled }}
gcsFaultToleranceOptions:
  backend: redis
  redisAddress: {{ .Values.redis.address | quote }}
  {{- if .Values.redis.username }}
  redisUsername:
    value: {{ .Values.redis.username | quote }}
  {{- end }}
  {{- with include "regraft.redisSecret" . }}
  redisPassword:
    valueFrom:
      secretKeyRef:
        name: {{ . | quote }}
        key: password
  {{- end }}
{{- end }}
headGroupSpec:
  serviceType: ClusterIP
  rayStartParams:
    num-cpus: "0"
    object-store-memory: {{ include "regraft.objectStore" .Values.head | quote }}
  template:
    {{- include "regraft.rayPod" (list . .Values.head "head") | nindent 4 }}
workerGroupSpecs:
{{- range $name, $group := include "regraft.groups" . | fromJson }}
  - groupName: {{ $name | quote }}
    replicas: {{ max (int $group.replicas) (int $group.minReplicas) }}
    minReplicas: {{ int $group.minReplicas }}
    maxReplicas: {{ int $group.maxReplicas }}
    {{- if $.Values.autoscaler.enabled }}
    {{- if $group.idleTimeoutSeconds }}
    idleTimeoutSeconds: {{ int $group.idleTimeoutSeconds }}
    {{- end }}
    {{- if $group.priority }}
    priority: {{ int $group.priority }}
    {{- end }}
    {{- end }}
    {{- if $group.labels }}
    labels:
      {{- range $key, $value := $group.labels }}
      {{ $key | quote }}: {{ $value | quote }}
      {{- end }}
    {{- end }}
    rayStartParams:
      object-store-memory: {{ include "regraft.objectStore" $group | quote }}
    template:
      {{- include "regraft.rayPod" (list $ $group "worker") | nindent 6 }}
{{- end }}
{{- end }}
