{{/* Names are fixed, because the operator, its roles and the services' NetworkPolicies know them: one installation a cluster. */}}

{{/* Labels of every object. Call with (list $ "switchgear-edge"). */}}
{{- define "switchgear.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "switchgear.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: switchgear
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels by which pods are selected; they can never change. */}}
{{- define "switchgear.selector" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- end }}

{{/* An image. Call with (list $ .Values.edge.image). */}}
{{- define "switchgear.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $name := $image.repository -}}
{{- with $root.Values.image.registry -}}{{- $name = printf "%s/%s" (trimSuffix "/" .) $name -}}{{- end -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ coalesce $image.tag $root.Values.image.tag $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* What every pod has beside its container. Call with (list $ "switchgear-edge" .Values.edge). */}}
{{- define "switchgear.pod" -}}
{{- $root := index . 0 -}}
{{- $own := index . 2 -}}
serviceAccountName: {{ index . 1 }}
automountServiceAccountToken: true
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "switchgear.spread" }}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "switchgear.selector" $ | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}

{{- define "switchgear.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* A probe. Call with (list "/ready" "internal" period failures). */}}
{{- define "switchgear.probe" -}}
httpGet: {path: {{ index . 0 }}, port: {{ index . 1 }}}
periodSeconds: {{ index . 2 }}
timeoutSeconds: 5
failureThreshold: {{ index . 3 }}
{{- end }}

{{/* The host of a URL, without its port. */}}
{{- define "switchgear.host" -}}
{{- (urlParse .).host | regexFind "^[^:]+" -}}
{{- end }}

{{/* A public host of the edge or the API in Ingress or HTTPRoute: this stops where values contradict each other. */}}
{{- define "switchgear.check" -}}
{{- $v := .Values -}}
{{- if not $v.region.publicUrl }}
{{- fail "region.publicUrl is required: the base URL at which clients reach the edge, such as https://sync.example.com" }}
{{- end }}
{{- range $name, $image := dict "operator" $v.operator.image "edge" $v.edge.image "api" $v.api.image "shapes" $v.shapes.image "streams" $v.streams.image }}
{{- if eq (coalesce $image.tag $v.image.tag $.Chart.AppVersion) "latest" }}
{{- fail (printf "%s.image: the tag latest names another image every day; give a version or a digest" $name) }}
{{- end }}
{{- end }}
{{- range $name, $url := dict "edge" $v.region.publicUrl "api" $v.api.publicUrl }}
{{- $own := index $v $name }}
{{- $setting := ternary "region.publicUrl" "api.publicUrl" (eq $name "edge") }}
{{- if or $own.ingress.enabled $own.gateway.enabled }}
{{- if and $own.ingress.enabled $own.gateway.enabled }}
{{- fail (printf "%s.ingress.enabled and %s.gateway.enabled are both true: choose one way in" $name $name) }}
{{- end }}
{{- if not $url }}
{{- fail (printf "%s is required with %s.ingress or %s.gateway: it names the host" $setting $name $name) }}
{{- end }}
{{- if regexMatch "^https?://[^/]+/." $url }}
{{- fail (printf "%s is %s: an Ingress or HTTPRoute of this chart serves a whole host, so leave the path away" $setting $url) }}
{{- end }}
{{- if regexMatch "^https?://(\\[|[0-9.]+(:|/|$))" $url }}
{{- fail (printf "%s is %s: an Ingress or HTTPRoute needs a host name, not an address" $setting $url) }}
{{- end }}
{{- if and $own.ingress.tlsSecretName (hasPrefix "http://" $url) }}
{{- fail (printf "%s is %s, but %s.ingress.tlsSecretName is set: make the URL https, or take the Secret away" $setting $url $name) }}
{{- end }}
{{- if and $own.gateway.enabled (not $own.gateway.parentRefs) }}
{{- fail (printf "%s.gateway.parentRefs is empty: name the Gateway that the route attaches to" $name) }}
{{- end }}
{{- else if $own.ingress.tlsSecretName }}
{{- fail (printf "%s.ingress.tlsSecretName is set, but %s.ingress.enabled is false" $name $name) }}
{{- else if $own.gateway.parentRefs }}
{{- fail (printf "%s.gateway.parentRefs is set, but %s.gateway.enabled is false" $name $name) }}
{{- end }}
{{- end }}
{{- if not $v.api.enabled }}
{{- if or $v.api.ingress.enabled $v.api.gateway.enabled $v.api.adminToken.existingSecret $v.api.publicUrl }}
{{- fail "api.enabled is false, but api.ingress, api.gateway, api.publicUrl or api.adminToken is set: enable the API, or take them away" }}
{{- end }}
{{- end }}
{{- if and $v.edge.service.nodePort (eq $v.edge.service.type "ClusterIP") }}
{{- fail "edge.service.nodePort is set, but edge.service.type is ClusterIP: choose NodePort or LoadBalancer" }}
{{- end }}
{{- if and $v.edge.service.loadBalancerSourceRanges (ne $v.edge.service.type "LoadBalancer") }}
{{- fail "edge.service.loadBalancerSourceRanges is set, but edge.service.type is not LoadBalancer" }}
{{- end }}
{{- if and $v.serviceMonitor.enabled $v.networkPolicy.enabled (not $v.networkPolicy.monitoringNamespaces) }}
{{- fail "serviceMonitor.enabled is true, but networkPolicy.monitoringNamespaces is empty, so that Prometheus could reach nothing: name its namespace" }}
{{- end }}
{{- if and (gt (int $v.edge.podDisruptionBudget.maxUnavailable) 0) (gt (int $v.edge.podDisruptionBudget.maxUnavailable) (int $v.edge.replicas)) }}
{{- fail "edge.podDisruptionBudget.maxUnavailable is larger than edge.replicas: such a budget protects nothing" }}
{{- end }}
{{- end }}
