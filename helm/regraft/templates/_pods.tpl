{{/* Pods of Ray: not root, nothing writable but what they are given. */}}

{{- define "regraft.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "regraft.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Environment of all containers of our image; a group's own variables come second. Call with (root, group's env). */}}
{{- define "regraft.env" -}}
{{- $ := index . 0 -}}
{{- $plain := dict "HOME" "/home/regraft" "REGRAFT_CACHE" "/tmp/regraft-cache" "TMPDIR" "/tmp" -}}
{{- if $.Values.store }}{{ $_ := set $plain "REGRAFT_STORE" $.Values.store }}{{ end -}}
{{- if $.Values.s3.endpoint }}{{ $_ := set $plain "AWS_ENDPOINT_URL" $.Values.s3.endpoint }}{{ end -}}
{{- if $.Values.s3.region }}{{ $_ := set $plain "AWS_REGION" $.Values.s3.region }}{{ end -}}
{{- if $.Values.hub.offline }}{{ $_ := set $plain "HF_HUB_OFFLINE" "1" }}{{ end -}}
{{- /* Serve's own proxy, and the replicas where HAProxy asks them, bound heads and trailers by this. */}}
{{- if eq $.Values.mode "service" }}{{ $_ := set $plain "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH" "regraft.cluster.bounded_ports:install" }}{{ end -}}
{{- if and (eq $.Values.mode "service") (eq (include "regraft.proxy" $) "haproxy") }}{{ $_ := set $plain "RAY_SERVE_ENABLE_HA_PROXY" "1" }}{{ $_ := set $plain "RAY_SERVE_HAPROXY_BINARY_PATH" "/opt/regraft/bin/regraft-haproxy" }}{{ end -}}
{{- range $name, $value := $.Values.env }}{{ $_ := set $plain $name $value }}{{ end -}}
{{- range $name, $value := index . 1 }}{{ $_ := set $plain $name $value }}{{ end -}}
{{- range $name, $value := $plain }}
- name: {{ $name | quote }}
  value: {{ $value | quote }}
{{- end }}
{{- $s3 := include "regraft.s3Secret" $ }}
{{- range $name := ternary (list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" "AWS_SESSION_TOKEN") list (ne $s3 "") }}
- name: {{ $name | quote }}
  valueFrom:
    secretKeyRef:
      name: {{ $s3 | quote }}
      key: {{ $name }}
      {{- if eq $name "AWS_SESSION_TOKEN" }}
      optional: true
      {{- end }}
{{- end }}
{{- with include "regraft.hubSecret" $ }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ . | quote }}
      key: HF_TOKEN
{{- end }}
{{- end }}

{{/* What a pod of any kind begins with. Call with (root, whether it talks to Kubernetes). */}}
{{- define "regraft.podStart" -}}
{{- $ := index . 0 -}}
serviceAccountName: {{ include "regraft.serviceAccountName" $ | quote }}
automountServiceAccountToken: {{ index . 1 }}
enableServiceLinks: false
securityContext:
  {{- include "regraft.podSecurity" $ | nindent 2 }}
{{- if $.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range $.Values.image.pullSecrets }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Where a group's pods go. */}}
{{- define "regraft.placement" -}}
terminationGracePeriodSeconds: {{ int .terminationGracePeriodSeconds }}
{{- if .priorityClassName }}
priorityClassName: {{ .priorityClassName | quote }}
{{- end }}
{{- if .nodeSelector }}
nodeSelector:
  {{- range $key, $value := .nodeSelector }}
  {{ $key | quote }}: {{ $value | quote }}
  {{- end }}
{{- end }}
{{- if .tolerations }}
tolerations:
  {{- toYaml .tolerations | nindent 2 }}
{{- end }}
{{- if .affinity }}
affinity:
  {{- toYaml .affinity | nindent 2 }}
{{- end }}
{{- end }}

{{- define "regraft.podMetadata" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
{{- $annotations := index . 2 -}}
metadata:
  labels:
    {{- include "regraft.selector" $ | nindent 4 }}
    app.kubernetes.io/component: {{ $component }}
    {{- range $key, $value := $.Values.serviceAccount.podLabels }}
    {{ $key | quote }}: {{ $value | quote }}
    {{- end }}
  {{- if $annotations }}
  annotations:
    {{- range $key, $value := $annotations }}
    {{ $key | quote }}: {{ $value | quote }}
    {{- end }}
  {{- end }}
{{- end }}

{{/* A pod that runs Ray: the head, or one of a group. Call with (root, group or head, "head" or "worker"). */}}
{{- define "regraft.rayPod" -}}
{{- $ := index . 0 -}}
{{- $group := index . 1 -}}
{{- $isHead := eq (index . 2) "head" -}}
{{- $keys := ternary (include "regraft.keysSecret" $) "" (eq $.Values.mode "service") -}}
{{- $spec := and $isHead (eq $.Values.mode "job") (ne $.Values.job.command "predict") -}}
{{ include "regraft.podMetadata" (list $ (index . 2) $group.annotations) }}
spec:
  {{- include "regraft.podStart" (list $ (and $isHead $.Values.autoscaler.enabled)) | nindent 2 }}
  {{- include "regraft.placement" $group | nindent 2 }}
  {{- if $group.runtimeClassName }}
  runtimeClassName: {{ $group.runtimeClassName | quote }}
  {{- end }}
  containers:
    - name: ray-{{ index . 2 }}
      image: {{ include "regraft.image" (list $ (default "" $group.imageTag) (default "" $group.imageDigest)) | quote }}
      imagePullPolicy: {{ $.Values.image.pullPolicy | quote }}
      securityContext:
        {{- include "regraft.containerSecurity" $ | nindent 8 }}
      env:
        {{- include "regraft.env" (list $ (default dict $group.env)) | trim | nindent 8 }}
      {{- if $isHead }}
      ports:
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: client, containerPort: 10001}
        - {name: metrics, containerPort: 8080}
        {{- if eq $.Values.mode "service" }}
        - {name: serve, containerPort: {{ int $.Values.service.port }}}
        {{- end }}
      {{- else }}
      ports:
        - {name: metrics, containerPort: 8080}
        {{- if eq $.Values.mode "service" }}
        - {name: serve, containerPort: {{ int $.Values.service.port }}}
        {{- end }}
      {{- if eq $.Values.mode "service" }}
      lifecycle:
        preStop:
          exec:
            command: ["/bin/sh", "-c", "ray stop"]
      {{- end }}
      {{- end }}
      resources:
        {{- range $kind := list "requests" "limits" }}
        {{ $kind }}:
          cpu: {{ $group.cpu | int | toString | quote }}
          memory: {{ $group.memory }}
          {{- if $group.gpus }}
          {{ $group.gpuResource }}: {{ $group.gpus | int | toString | quote }}
          {{- end }}
        {{- end }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: home, mountPath: /home/regraft}
        - {name: shared-memory, mountPath: /dev/shm}
        {{- if $spec }}
        - {name: spec, mountPath: /etc/regraft/job, readOnly: true}
        {{- end }}
        {{- if $keys }}
        - {name: keys, mountPath: /etc/regraft/keys, readOnly: true}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: {{ $group.scratch }}
    - name: home
      emptyDir:
        sizeLimit: 1Gi
    - name: shared-memory
      emptyDir:
        medium: Memory
        sizeLimit: {{ include "regraft.sharedMemory" $group }}Mi
    {{- if $spec }}
    - name: spec
      configMap:
        name: {{ printf "%s-spec" (include "regraft.fullname" $) | quote }}
    {{- end }}
    {{- if $keys }}
    - name: keys
      secret:
        secretName: {{ $keys | quote }}
        defaultMode: 0440
    {{- end }}
{{- end }}
