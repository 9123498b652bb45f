{{/* The proxy in front of the replicas: what is written, or the choice of `auto`. */}}
{{- define "regraft.proxy" -}}
{{- if ne .Values.service.proxy "auto" }}{{ .Values.service.proxy }}
{{- else if and .Values.networkPolicy.enabled (gt (int .Values.service.scaling.minReplicas) 0) }}haproxy
{{- else }}python
{{- end }}
{{- end }}

{{/* Why `auto` chose it. */}}
{{- define "regraft.proxyReason" -}}
{{- if ne .Values.service.proxy "auto" }}as service.proxy says
{{- else if not .Values.networkPolicy.enabled }}since networkPolicy.enabled is false, and with haproxy the replicas' ports would be open to everyone
{{- else if not (int .Values.service.scaling.minReplicas) }}since service.scaling.minReplicas is 0, and the first request must find a proxy that waits for a replica
{{- else }}since it refuses faster under overload, and the network policy closes the replicas' ports
{{- end }}
{{- end }}

{{/* The configuration of Ray Serve: one application, whose arguments are the serve spec. */}}
{{- define "regraft.serveConfig" -}}
{{- $service := .Values.service -}}
{{- $scaling := $service.scaling -}}
{{- $limits := $service.limits -}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: {{ int $service.port }}
  {{- /* Longer than the endpoint itself allows, so that its own refusals come first. */}}
  request_timeout_s: {{ add 20 (mul 2 (int $limits.seconds)) }}
  keep_alive_timeout_s: 30
logging_config:
  enable_access_log: false
applications:
  - name: regraft
    route_prefix: /
    import_path: regraft.cluster.serve:app
    args:
      models:
        {{- range $service.models }}
        - {{ . | quote }}
        {{- end }}
      {{- if $service.aliases }}
      aliases:
        {{- range $alias, $shares := $service.aliases }}
        {{ $alias | quote }}:
          {{- range $version, $share := $shares }}
          {{ $version }}: {{ $share | toJson }}
          {{- end }}
        {{- end }}
      {{- end }}
      store: {{ .Values.store | quote }}
      host: 0.0.0.0
      port: {{ int $service.port }}
      {{- if include "regraft.keysSecret" . }}
      keys: /etc/regraft/keys/keys.yaml
      keys_gone_seconds: {{ int $service.keysGoneSeconds }}
      {{- end }}
      open_to_all: {{ $service.openToAll }}
      {{- if $service.allowOrigins }}
      allow_origins: {{ $service.allowOrigins | toJson }}
      {{- end }}
      proxy: {{ include "regraft.proxy" . }}
      precision: {{ $service.precision }}
      scaling:
        min_replicas: {{ int $scaling.minReplicas }}
        max_replicas: {{ int $scaling.maxReplicas }}
        target: {{ int $scaling.target }}
        up_seconds: {{ int $scaling.upSeconds }}
        down_seconds: {{ int $scaling.downSeconds }}
        drain_seconds: {{ int $scaling.drainSeconds }}
      replica:
        cpus: {{ int $service.replica.cpus }}
        gpus: {{ int $service.replica.gpus }}
        budget_mb: {{ int $service.replica.budgetMb }}
      limits:
        body_bytes: {{ int64 $limits.bodyBytes }}
        items: {{ int $limits.items }}
        tokens: {{ int64 $limits.tokens }}
        queue: {{ int $limits.queue }}
        seconds: {{ int $limits.seconds }}
{{- end }}
