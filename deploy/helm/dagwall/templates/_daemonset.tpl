{{/* The agent's DaemonSet (root, object) with what the values say of it. */}}
{{- define "dagwall.daemonset" -}}
{{- $values := .root.Values -}}
{{- $template := .object.spec.template -}}
{{- $agent := index $template.spec.containers 0 -}}
{{- $_ := set .object.spec "updateStrategy" $values.updateStrategy -}}
{{- include "dagwall.images" (dict "root" .root "pod" $template.spec) -}}
{{- include "dagwall.placement" (dict "pod" $template.spec "values" $values) -}}
{{- $_ := set $template.spec "priorityClassName" $values.priorityClassName -}}
{{- $_ := set $agent "resources" $values.resources -}}
{{- $_ := set $agent "env" (concat $agent.env ($values.extraEnv | default list)) -}}
{{- include "dagwall.ports" (dict "agent" $agent "values" $values) -}}
{{- $_ := set $agent "args" (concat $agent.args ((include "dagwall.flags" .root | fromYaml).flags | default list)) -}}
{{- range (include "dagwall.mounts" .root | fromYaml).mounts -}}
{{- $mount := .mount -}}
{{- $_ := set $mount "name" .volume.name -}}
{{- $_ := set $agent "volumeMounts" (append $agent.volumeMounts $mount) -}}
{{- $_ := set $template.spec "volumes" (append $template.spec.volumes .volume) -}}
{{- end -}}
{{- with $values.podLabels -}}
{{- $_ := set $template.metadata "labels" (merge (dict) $template.metadata.labels .) -}}
{{- end -}}
{{- $annotations := merge (dict) $values.podAnnotations -}}
{{- with $values.config -}}
{{- $_ := set $annotations "checksum/config" (toYaml . | sha256sum) -}}
{{- end -}}
{{- with $annotations -}}
{{- $_ := set $template.metadata "annotations" . -}}
{{- end -}}
{{ toYaml .object }}
{{- end -}}

{{/* The agent's ports: everything is on the node's network (agent, values). Changes `agent`. */}}
{{- define "dagwall.ports" -}}
{{- $metrics := int .values.metrics.port -}}
{{- $probes := int .values.probes.port -}}
{{- $args := list -}}
{{- range .agent.args -}}
{{- if hasPrefix "--metrics=" . -}}
{{- $args = append $args (regexReplaceAll ":[0-9]+$" . (printf ":%d" $metrics)) -}}
{{- else if hasPrefix "--probes=" . -}}
{{- $args = append $args (regexReplaceAll ":[0-9]+$" . (printf ":%d" $probes)) -}}
{{- else -}}
{{- $args = append $args . -}}
{{- end -}}
{{- end -}}
{{- $_ := set .agent "args" $args -}}
{{- $ports := list (dict "name" "metrics" "containerPort" $metrics) -}}
{{- with .values.hubble.listen -}}
{{- if .enabled -}}
{{- $ports = append $ports (dict "name" "hubble" "containerPort" (int .port)) -}}
{{- end -}}
{{- end -}}
{{- $_ := set .agent "ports" $ports -}}
{{- range list .agent.startupProbe .agent.livenessProbe .agent.readinessProbe -}}
{{- $_ := set .httpGet "port" $probes -}}
{{- end -}}
{{- end -}}

{{/* "mounts": volumes that the values ask for, and where they are in the agent's container. */}}
{{- define "dagwall.mounts" -}}
{{- $mounts := list -}}
{{- if .Values.config -}}
{{- $volume := dict "name" "config" "configMap" (dict "name" "dagwall-agent") -}}
{{- $mounts = append $mounts (dict "volume" $volume "mount" (dict "mountPath" "/etc/dagwall/config" "readOnly" true)) -}}
{{- end -}}
{{- if or .Values.auditLog.enabled .Values.flowLog.enabled -}}
{{- $volume := dict "name" "logs" "hostPath" (dict "path" .Values.logFolder "type" "DirectoryOrCreate") -}}
{{- $mounts = append $mounts (dict "volume" $volume "mount" (dict "mountPath" .Values.logFolder)) -}}
{{- end -}}
{{- if and .Values.auditLog.enabled .Values.auditLog.signingKey.secretName -}}
{{- $volume := dict "name" "audit-key" "secret" (dict "secretName" .Values.auditLog.signingKey.secretName "defaultMode" 256) -}}
{{- $mounts = append $mounts (dict "volume" $volume "mount" (dict "mountPath" "/etc/dagwall/audit" "readOnly" true)) -}}
{{- end -}}
{{- if .Values.hubble.listen.enabled -}}
{{- $volume := dict "name" "hubble-certs" "secret" (dict "secretName" .Values.hubble.listen.tlsSecret "defaultMode" 256) -}}
{{- $mounts = append $mounts (dict "volume" $volume "mount" (dict "mountPath" "/etc/dagwall/hubble" "readOnly" true)) -}}
{{- end -}}
{{ dict "mounts" $mounts | toYaml }}
{{- end -}}
