{{- define "fraud.labels" -}}
app.kubernetes.io/name: fraud-platform
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* What finds the pods of one part: (list . "decision") */}}
{{- define "fraud.selector" -}}
app.kubernetes.io/name: fraud-platform
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "fraud.pod" -}}
automountServiceAccountToken: false
# else each Service gives every pod variables such as FRAUD_GATEWAY_PORT, which are settings here
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "fraud.container" -}}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{- define "fraud.spread" -}}
- maxSkew: 1
  topologyKey: topology.kubernetes.io/zone
  whenUnsatisfiable: ScheduleAnyway
  labelSelector: { matchLabels: {{ . | fromYaml | toJson }} }
{{- end }}

{{/* An image as it was meant, by its digest: (list . "service" "`fraud-platform package`") */}}
{{- define "fraud.image" -}}
{{- $root := index . 0 }}
{{- $name := index . 1 }}
{{- $image := required (printf "image.%s names the image that %s has built" $name (index . 2)) (index $root.Values.image $name) }}
{{- if and $root.Values.image.requireDigests (not (regexMatch "^[^@ ]+@sha256:[0-9a-f]{64}$" $image)) }}
{{- fail (printf "image.%s is %s, and a tag may come to mean another image: name it as REPOSITORY@sha256:…, which the registry says when it is pushed; image.requireDigests=false takes tags" $name $image) }}
{{- end }}
{{- $image }}
{{- end }}

{{/* One rule of egress to what stands elsewhere: (list . "redis") */}}
{{- define "fraud.egress" -}}
{{- $name := index . 1 }}
{{- $there := index (index . 0).Values.network.stores $name }}
{{- if not $there.to }}
{{- fail (printf "network.stores.%s.to names nobody: say where it stands, as peers of a NetworkPolicy, such as [{ipBlock: {cidr: 10.1.2.3/32}}] or [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %s}}}]" $name $name) }}
{{- end }}
- to: {{ toJson $there.to }}
  ports:
    {{- range $there.ports }}
    - { port: {{ . }}, protocol: TCP }
    {{- end }}
{{- end }}

{{- define "fraud.settings" -}}
- name: FRAUD_BIND_HOST
  value: 0.0.0.0
{{- range $name, $value := .Values.settings }}
{{- if ne (toString $value) "" }}
- name: FRAUD_{{ snakecase $name | upper }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "fraud.env" -}}
- name: FRAUD_REDIS_URL
  valueFrom: { secretKeyRef: { name: {{ .Values.secrets.addresses }}, key: FRAUD_REDIS_URL } }
- name: FRAUD_POSTGRES_URL
  valueFrom: { secretKeyRef: { name: {{ .Values.secrets.addresses }}, key: FRAUD_POSTGRES_URL } }
{{- if not (hasKey .Values.settings "kafkaOptions") }}
- name: FRAUD_KAFKA_OPTIONS
  valueFrom: { secretKeyRef: { name: {{ .Values.secrets.addresses }}, key: FRAUD_KAFKA_OPTIONS, optional: true } }
{{- end }}
{{ include "fraud.settings" . }}
{{- end }}

{{/* The control store, for the part that reads or changes the policy: (list . "secret") */}}
{{- define "fraud.control" -}}
{{- if (index . 0).Values.control.enabled -}}
- name: FRAUD_CONTROL_URL
  valueFrom: { secretKeyRef: { name: {{ index . 1 }}, key: FRAUD_CONTROL_URL } }
{{- end }}
{{- end }}

{{- define "fraud.platformVolumes" -}}
- name: home
  persistentVolumeClaim: { claimName: {{ .Release.Name }}-home }
- name: tmp
  emptyDir: {}
- name: dagster
  configMap: { name: {{ .Release.Name }}-dagster }
{{- end }}

{{/* Dagster reads dagster.yaml from a folder that it also writes to: the file is put into the home's folder */}}
{{- define "fraud.platformMounts" -}}
- { name: home, mountPath: /var/lib/fraud }
- { name: tmp, mountPath: /tmp }
- { name: dagster, mountPath: /var/lib/fraud/dagster/dagster.yaml, subPath: dagster.yaml }
- { name: dagster, mountPath: /etc/dagster/workspace.yaml, subPath: workspace.yaml }
{{- end }}

{{- define "fraud.dagsterEnv" -}}
{{ include "fraud.env" . }}
- name: DAGSTER_POSTGRES_URL
  valueFrom: { secretKeyRef: { name: {{ .Values.secrets.addresses }}, key: DAGSTER_POSTGRES_URL } }
{{- end }}
