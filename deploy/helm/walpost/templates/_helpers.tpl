{{- define "walpost.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "walpost.labels" -}}
app.kubernetes.io/name: walpost
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The pod, of a Deployment and of a StatefulSet. */}}
{{- define "walpost.pod" -}}
metadata:
  labels: {{- include "walpost.labels" . | nindent 4 }}
  annotations:
    checksum/config: {{ toYaml .Values.config | sha256sum }}
    {{- if not .Values.serviceMonitor.enabled }}
    prometheus.io/scrape: "true"
    prometheus.io/port: "9187"
    {{- end }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  terminationGracePeriodSeconds: 30
  serviceAccountName: {{ include "walpost.name" . }}
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: walpost
      image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [run, --config, /etc/walpost/walpost.yaml]
      {{- if gt (int .Values.shards) 1 }}
      env:
        - name: POD_INDEX
          valueFrom: {fieldRef: {fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}}
        - {name: WALPOST_POSTGRES_SHARD, value: "$(POD_INDEX)/{{ .Values.shards }}"}
      {{- end }}
      envFrom: [{secretRef: {name: {{ .Values.existingSecret }}}}]
      ports: [{name: admin, containerPort: 9187}]
      livenessProbe: {httpGet: {path: /livez, port: admin}}
      # A standby is ready too, so that a rollout can go on.
      readinessProbe: {httpGet: {path: /readyz, port: admin}, periodSeconds: 5}
      resources: {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: config, mountPath: /etc/walpost, readOnly: true}
        - {name: spill, mountPath: /tmp}
  volumes:
    - {name: config, configMap: {name: {{ include "walpost.name" . }}}}
    - {name: spill, emptyDir: {sizeLimit: {{ .Values.spill.sizeLimit }}}}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
