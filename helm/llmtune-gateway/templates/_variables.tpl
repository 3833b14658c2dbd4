{{- /* What the gateway is told, for its Deployment and for sidecars alike. */ -}}

{{- /* Every setting that is no secret, as one map of variables. */ -}}
{{- define "llmtune-gateway.settings" -}}
{{- $simulator := printf "http://%s-simulator:8090/v1" (include "llmtune-gateway.fullname" .) -}}
GATEWAY_UPSTREAM_URL: {{ ternary $simulator .Values.upstream.url .Values.trial.simulator | quote }}
GATEWAY_DRAIN_NOTICE_S: {{ int64 .Values.drain.noticeSeconds | quote }}
GATEWAY_DRAIN_TIMEOUT_S: {{ int64 .Values.drain.timeoutSeconds | quote }}
{{- if .Values.policies.plans }}
GATEWAY_PLANS_DIR: /etc/llmtune/plans
{{- end }}
{{- if .Values.policies.keysExistingSecret }}
GATEWAY_KEYS_FILE: /etc/llmtune/keys/keys.yaml
{{- end }}
{{- if .Values.rateLimitService }}
GATEWAY_RATE_LIMIT_PORT: "8081"
{{- end }}
{{- with .Values.storage.url }}
GATEWAY_STORAGE_URL: {{ . | quote }}
{{- end }}
{{- range $name, $value := merge (dict) .Values.settings .Values.openTelemetry }}
{{- /* YAML's numbers are floats, whose own form of a million is 1e+06. */}}
{{- $isWhole := and (kindIs "float64" $value) (eq (floor $value) $value) }}
{{ $name }}: {{ ternary (int64 $value) $value $isWhole | quote }}
{{- end }}
{{- end -}}

{{- /* The store's URL; Kubernetes puts the password in, from the variable before it. */ -}}
{{- define "llmtune-gateway.storeUrl" -}}
{{- $own := printf "redis://%s-redis:6379/0" (include "llmtune-gateway.fullname" .) -}}
{{- $url := ternary $own .Values.redis.url .Values.trial.redis -}}
{{- if .Values.redis.existingSecret -}}
{{- $scheme := regexFind "^[a-z+]+://" $url -}}
{{- printf "%s%s:$(REDIS_PASSWORD)@%s" $scheme .Values.redis.username (trimPrefix $scheme $url) -}}
{{- else -}}
{{- $url -}}
{{- end -}}
{{- end -}}

{{- /* The variables that plans name for the keys of private fleets, as a YAML list. */ -}}
{{- define "llmtune-gateway.fleetVariables" -}}
{{- $found := list -}}
{{- range $file, $text := .Values.policies.plans -}}
{{- $plan := fromYaml $text -}}
{{- if hasKey $plan "Error" }}{{ fail (printf "policies.plans: %s is no YAML: %s" $file $plan.Error) }}{{ end -}}
{{- range prepend (values ($plan.workspaces | default dict)) $plan -}}
{{- $fleet := (. | default dict).upstream | default dict -}}
{{- with $fleet.api_key_env }}{{ $found = append $found . }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $found | uniq | sortAlpha | toYaml -}}
{{- end -}}

{{- /* Everything that is a secret or holds one, as a container's `env`. */ -}}
{{- define "llmtune-gateway.secretVariables" -}}
{{- $upstream := .Values.upstream.existingSecret -}}
{{- with .Values.redis.existingSecret }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ . | quote }}
      key: password
{{- end }}
- name: GATEWAY_STORE_URL
  value: {{ include "llmtune-gateway.storeUrl" . | quote }}
{{- with .Values.redis.sealingExistingSecret }}
- name: GATEWAY_REPLAY_SEALING_KEYS
  valueFrom:
    secretKeyRef:
      name: {{ . | quote }}
      key: sealing-keys
{{- end }}
{{- if $upstream }}
- name: GATEWAY_UPSTREAM_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ $upstream | quote }}
      key: api-key
{{- if .Values.settings.GATEWAY_PUBLIC_URL }}
- name: GATEWAY_WEBHOOK_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ $upstream | quote }}
      key: webhook-secret
{{- end }}
{{- if .Values.storage.url }}
{{- range $name, $key := dict "AWS_ACCESS_KEY_ID" "aws-access-key-id" "AWS_SECRET_ACCESS_KEY" "aws-secret-access-key" }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $upstream | quote }}
      key: {{ $key }}
      optional: true
{{- end }}
{{- end }}
{{- if .Values.openTelemetry }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom:
    secretKeyRef:
      name: {{ $upstream | quote }}
      key: otlp-headers
      optional: true
{{- end }}
{{- /* The lean transport takes none. */}}
{{- if has .Values.settings.GATEWAY_UPSTREAM_TRANSPORT (list "stock" "http2") }}
- name: GATEWAY_UPSTREAM_PROXY_URL
  valueFrom:
    secretKeyRef:
      name: {{ $upstream | quote }}
      key: proxy-url
      optional: true
{{- end }}
{{- end }}
{{- range include "llmtune-gateway.fleetVariables" . | fromYamlArray }}
- name: {{ . }}
  valueFrom:
    secretKeyRef:
      name: {{ required (printf "upstream.existingSecret: a plan's private fleet wants its key %s" .) $upstream | quote }}
      key: {{ . }}
{{- end }}
{{- end -}}

{{- /* Whom to trust and who we are, for a Redis with TLS; its Secret need not have them. */ -}}
{{- define "llmtune-gateway.redisTlsVolume" -}}
{{- if and .Values.redis.existingSecret (hasPrefix "rediss" .Values.redis.url) -}}
- name: llmtune-redis-tls
  secret:
    secretName: {{ .Values.redis.existingSecret | quote }}
    optional: true
    items:
      {{- range list "ca.crt" "tls.crt" "tls.key" }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end -}}
{{- end -}}

{{- /* Where files and batches are, if not in S3. */ -}}
{{- define "llmtune-gateway.storageVolume" -}}
{{- with .Values.storage.existingClaim -}}
- name: files
  persistentVolumeClaim:
    claimName: {{ . | quote }}
{{- end -}}
{{- with .Values.storage.emptyDirSize -}}
- name: files
  emptyDir:
    sizeLimit: {{ . }}
{{- end -}}
{{- end -}}

{{- /* Whether that volume can be in no second pod; empty: it can, or there is none. */ -}}
{{- define "llmtune-gateway.hasVolumeOfOnePod" -}}
{{- if or .Values.storage.emptyDirSize (hasPrefix "ReadWriteOnce" (.Values.storage.accessMode | default "")) -}}
true
{{- end -}}
{{- end -}}

{{- /* What traces say of the pod. */ -}}
{{- define "llmtune-gateway.podVariables" -}}
{{- range $name, $field := dict "POD_NAME" "metadata.name" "POD_UID" "metadata.uid" "NAMESPACE_NAME" "metadata.namespace" "NODE_NAME" "spec.nodeName" }}
- name: K8S_{{ $name }}
  valueFrom:
    fieldRef:
      fieldPath: {{ $field }}
{{- end }}
{{- end -}}
