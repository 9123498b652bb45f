{{/* Worker groups with their defaults, and sizes in numbers. */}}

{{/* JSON of the enabled groups by name. `merge` and `default` would take false and 0 for "not written". */}}
{{- define "regraft.groups" -}}
{{- $groups := dict -}}
{{- range $name, $written := .Values.workerGroups -}}
  {{- $group := deepCopy (default dict $written) -}}
  {{- range $key, $value := $.Values.workerDefaults -}}
    {{- if not (hasKey $group $key) }}{{ $_ := set $group $key $value }}{{ end -}}
  {{- end -}}
  {{- if $group.enabled }}{{ $_ := set $groups $name $group }}{{ end -}}
{{- end -}}
{{- toJson $groups -}}
{{- end }}

{{/* Mebibytes of a quantity in Mi or Gi. */}}
{{- define "regraft.mebibytes" -}}
{{- if hasSuffix "Gi" . }}{{ mul 1024 (trimSuffix "Gi" . | int64) }}{{ else }}{{ trimSuffix "Mi" . | int64 }}{{ end -}}
{{- end }}

{{/* Mebibytes of /dev/shm: as written, or 40 % of memory. */}}
{{- define "regraft.sharedMemory" -}}
{{- if .sharedMemory }}{{ include "regraft.mebibytes" .sharedMemory }}
{{- else }}{{ div (mul 2 (include "regraft.mebibytes" .memory | int64)) 5 }}
{{- end }}
{{- end }}

{{/* Bytes of Ray's object store: three quarters of /dev/shm, so that data loaders find room there too. */}}
{{- define "regraft.objectStore" -}}
{{- div (mul 3 1048576 (include "regraft.sharedMemory" . | int64)) 4 -}}
{{- end }}
