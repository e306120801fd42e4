{{/* "flags" that the values add to `dagwall run`. A value that is the agent's own default adds none. */}}
{{- define "dagwall.flags" -}}
{{- $policy := .Values.policy -}}
{{- $flags := list -}}
{{- if ne $policy.posture "enforce" -}}
{{- $flags = append $flags (printf "--posture=%s" $policy.posture) -}}
{{- end -}}
{{- if ne $policy.defaultPosture "observe" -}}
{{- $flags = append $flags (printf "--default-posture=%s" $policy.defaultPosture) -}}
{{- end -}}
{{- $baseline := $policy.baseline | join "," | default "none" -}}
{{- if ne $baseline "airflow,dns" -}}
{{- $flags = append $flags (printf "--baseline=%s" $baseline) -}}
{{- end -}}
{{- if $policy.networkPolicy -}}
{{- $flags = append $flags "--network-policy" -}}
{{- end -}}
{{- range $policy.managedNamespaces -}}
{{- $flags = append $flags (printf "--managed-namespace=%s" .) -}}
{{- end -}}
{{- range $policy.podCidrs -}}
{{- $flags = append $flags (printf "--pod-cidr=%s" .) -}}
{{- end -}}
{{- range $policy.serviceCidrs -}}
{{- $flags = append $flags (printf "--service-cidr=%s" .) -}}
{{- end -}}
{{- if ne $policy.onAgentLoss "allow" -}}
{{- $flags = append $flags (printf "--on-agent-loss=%s" $policy.onAgentLoss) -}}
{{- end -}}
{{- if ne .Values.cluster "default" -}}
{{- $flags = append $flags (printf "--cluster=%s" .Values.cluster) -}}
{{- end -}}
{{- range .Values.cgroupRoots -}}
{{- $flags = append $flags (printf "--cgroup-root=%s" .) -}}
{{- end -}}
{{- if .Values.config -}}
{{- $flags = append $flags "--config=/etc/dagwall/config/dagwall.yaml" -}}
{{- end -}}
{{- include "dagwall.flagsOfFiles" (dict "root" . "flags" $flags) -}}
{{- end -}}

{{/* The same of what is written to files and served to Hubble; then extraArgs (root, flags so far). */}}
{{- define "dagwall.flagsOfFiles" -}}
{{- $values := .root.Values -}}
{{- $flags := .flags -}}
{{- with $values.auditLog -}}
{{- if .enabled -}}
{{- $flags = append $flags (printf "--audit-log=%s/audit.log" $values.logFolder) -}}
{{- if ne (int .files) 16 -}}
{{- $flags = append $flags (printf "--audit-files=%d" (int .files)) -}}
{{- end -}}
{{- if .signingKey.secretName -}}
{{- $flags = append $flags (printf "--audit-key=/etc/dagwall/audit/%s" .signingKey.key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $values.flowLog.enabled -}}
{{- $flags = append $flags (printf "--flow-log=%s/flows.log" $values.logFolder) -}}
{{- end -}}
{{- if $values.hubble.listen.enabled -}}
{{- $flags = append $flags (printf "--hubble-listen=$(NODE_ADDRESS):%d" (int $values.hubble.listen.port)) -}}
{{- $flags = concat $flags (list "--hubble-tls-cert=/etc/dagwall/hubble/tls.crt" "--hubble-tls-key=/etc/dagwall/hubble/tls.key" "--hubble-tls-client-ca=/etc/dagwall/hubble/ca.crt") -}}
{{- end -}}
{{ dict "flags" (concat $flags ($values.extraArgs | default list)) | toYaml }}
{{- end -}}
