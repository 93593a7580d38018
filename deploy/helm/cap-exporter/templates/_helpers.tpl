{{- define "cap-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "cap-exporter.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "cap-exporter.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "cap-exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ include "cap-exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "cap-exporter.labels" -}}
{{ include "cap-exporter.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "cap-exporter.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "cap-exporter.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "cap-exporter.image" -}}
{{- $name := .Values.image.repository -}}
{{- if .Values.image.registry -}}{{- $name = printf "%s/%s" .Values.image.registry $name -}}{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "cap-exporter.capabilities" -}}
{{- $add := list "BPF" "PERFMON" "SYSLOG" "DAC_READ_SEARCH" -}}
{{- if or .Values.kernel.before511 .Values.kernel.before58 -}}{{- $add = append $add "SYS_RESOURCE" -}}{{- end -}}
{{- if .Values.kernel.before58 -}}{{- $add = append $add "SYS_ADMIN" -}}{{- end -}}
{{- toYaml $add -}}
{{- end -}}

{{- define "cap-exporter.probe" -}}
{{- if .web.clientCertificates -}}
tcpSocket:
  port: metrics
{{- else -}}
httpGet:
  path: {{ .path }}
  port: metrics
  {{- if .web.tls }}
  scheme: HTTPS
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "cap-exporter.webVolume" -}}
projected:
  defaultMode: 0400
  sources:
    - secret:
        name: {{ .secret }}
    {{- with .certificateSecret }}
    - secret:
        name: {{ . }}
    {{- end }}
{{- end -}}

{{- define "cap-exporter.securityContext" -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add:
    {{- include "cap-exporter.capabilities" . | nindent 4 }}
{{- end }}
