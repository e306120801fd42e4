{{/*
Objects come from files/, which `make manifests` copies from the folders that `kubectl apply` uses: what a cluster gets
is written down once. The templates change of them what values.yaml names, and nothing else.
*/}}

{{/* Where everything is that has a namespace. */}}
{{- define "dagwall.namespace" -}}
{{ .Values.namespace.name | default .Release.Namespace }}
{{- end -}}

{{- define "dagwall.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) }}
{{- end -}}
{{- end -}}

{{/* "objects" of a file (root, file), with this release's namespace and cluster where the file has the default ones. */}}
{{- define "dagwall.objects" -}}
{{- $text := .root.Files.Get (printf "files/%s" .file) | replace "dagwall-system" (include "dagwall.namespace" .root) -}}
{{- $text = $text | replace "cluster-name: default" (printf "cluster-name: %s" .root.Values.cluster) -}}
{{- $text = $text | replace "*.default.hubble-grpc" (printf "*.%s.hubble-grpc" .root.Values.cluster) -}}
{{- $objects := list -}}
{{- range splitList "\n---\n" (printf "\n%s" $text) -}}
{{- with fromYaml (printf "%s\n" .) -}}
{{- $objects = append $objects . -}}
{{- end -}}
{{- end -}}
{{ dict "objects" $objects | toYaml }}
{{- end -}}

{{/* The objects of a file (root, file), as they are. */}}
{{- define "dagwall.copy" -}}
{{- range (include "dagwall.objects" . | fromYaml).objects }}
---
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Ends with an error where the cluster is older than ValidatingAdmissionPolicy v1 (root, value). */}}
{{- define "dagwall.needs130" -}}
{{- $version := .root.Capabilities.KubeVersion.Version -}}
{{- if not (semverCompare ">=1.30.0-0" $version) -}}
{{- fail (printf "%s: needs Kubernetes 1.30 (ValidatingAdmissionPolicy v1), and this cluster has %s" .value $version) -}}
{{- end -}}
{{- end -}}

{{/* What all pods of dagwall's image have (root, pod): image, pull policy and secrets. Changes `pod`. */}}
{{- define "dagwall.images" -}}
{{- $image := include "dagwall.image" .root -}}
{{- $policy := .root.Values.image.pullPolicy -}}
{{- range concat .pod.initContainers .pod.containers -}}
{{- $_ := set . "image" $image -}}
{{- if $policy -}}
{{- $_ := set . "imagePullPolicy" $policy -}}
{{- end -}}
{{- end -}}
{{- with .root.Values.imagePullSecrets -}}
{{- $_ := set $.pod "imagePullSecrets" . -}}
{{- end -}}
{{- end -}}

{{/* Where pods may run (pod, values). Changes `pod`. */}}
{{- define "dagwall.placement" -}}
{{- range $name := list "nodeSelector" "affinity" "tolerations" -}}
{{- with index $.values $name -}}
{{- $_ := set $.pod $name . -}}
{{- end -}}
{{- end -}}
{{- end -}}
