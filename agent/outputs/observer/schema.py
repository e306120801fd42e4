"""Messages and services of Hubble's API, as far as a node of ours answers them: names and numbers are the interface.

A row is `NAME NUMBER TYPE`; `*TYPE` is repeated, `@N` at the end of a row says that it is one of the fields of which
only one is set. Types without a dot are protobuf's own, or those of the same file. What is not here is unknown to us:
readers skip it, and a filter with it is refused. Source: github.com/cilium/cilium, api/v1; google.golang.org/grpc,
health/v1.
"""

from __future__ import annotations

from agent.outputs.hubble_reasons import DROP_REASONS

MESSAGES: dict[str, str] = {
    "flow.Flow": """time 1 Timestamp; verdict 2 Verdict; drop_reason 3 uint32; IP 5 IP; l4 6 Layer4; source 8 Endpoint;
        destination 9 Endpoint; Type 10 FlowType; node_name 11 string; source_names 13 *string;
        destination_names 14 *string; l7 15 Layer7; event_type 19 CiliumEventType; source_service 20 Service;
        destination_service 21 Service; traffic_direction 22 TrafficDirection; policy_match_type 23 uint32;
        trace_observation_point 24 TraceObservationPoint; drop_reason_desc 25 DropReason; is_reply 26 BoolValue;
        socket_cookie 32 uint64; cgroup_id 33 uint64; uuid 34 string; emitter 41 Emitter;
        egress_allowed_by 21001 *Policy; ingress_allowed_by 21002 *Policy; egress_denied_by 21004 *Policy;
        ingress_denied_by 21005 *Policy; Summary 100000 string; extensions 150000 Any""",
    "flow.IP": "source 1 string; destination 2 string; ipVersion 3 IPVersion",
    "flow.Layer4": """TCP 1 TCP @protocol; UDP 2 UDP @protocol; ICMPv4 3 ICMPv4 @protocol; ICMPv6 4 ICMPv6 @protocol;
        SCTP 5 SCTP @protocol; IGMP 7 IGMP @protocol""",
    "flow.TCP": "source_port 1 uint32; destination_port 2 uint32; flags 3 TCPFlags",
    "flow.TCPFlags": "FIN 1 bool; SYN 2 bool; RST 3 bool; PSH 4 bool; ACK 5 bool; URG 6 bool; ECE 7 bool; CWR 8 bool; NS 9 bool",
    "flow.UDP": "source_port 1 uint32; destination_port 2 uint32",
    "flow.SCTP": "source_port 1 uint32; destination_port 2 uint32",
    "flow.ICMPv4": "type 1 uint32; code 2 uint32",
    "flow.ICMPv6": "type 1 uint32; code 2 uint32",
    "flow.IGMP": "type 1 uint32; group_address 2 string",
    "flow.Layer7": "type 1 L7FlowType; latency_ns 2 uint64; dns 100 DNS @record; http 101 HTTP @record",
    "flow.DNS": """query 1 string; ips 2 *string; ttl 3 uint32; cnames 4 *string; observation_source 5 string; rcode 6 uint32;
        qtypes 7 *string; rrtypes 8 *string""",
    "flow.HTTP": "code 1 uint32; method 2 string; url 3 string; protocol 4 string; headers 5 *HTTPHeader",
    "flow.Endpoint": """ID 1 uint32; identity 2 uint32; namespace 3 string; labels 4 *string; pod_name 5 string;
        workloads 6 *Workload; cluster_name 7 string""",
    "flow.Workload": "name 1 string; kind 2 string",
    "flow.Service": "name 1 string; namespace 2 string",
    "flow.Emitter": "name 1 string; version 2 string",
    "flow.Policy": "name 1 string; namespace 2 string; labels 3 *string; revision 4 uint64; kind 5 string",
    "flow.CiliumEventType": "type 1 int32; sub_type 2 int32",
    "flow.EventTypeFilter": "type 1 int32; match_sub_type 2 bool; sub_type 3 int32",
    "flow.LostEvent": "source 1 LostEventSource; num_events_lost 2 uint64; cpu 3 Int32Value; first 4 Timestamp; last 5 Timestamp",
    "flow.HTTPHeader": "key 1 string; value 2 string",
    "flow.NetworkInterface": "index 1 uint32; name 2 string",
    "flow.Experimental": "cel_expression 1 *string",
    "flow.FlowFilter": """source_ip 1 *string; source_pod 2 *string; destination_ip 3 *string; destination_pod 4 *string;
        verdict 5 *Verdict; event_type 6 *EventTypeFilter; source_fqdn 7 *string; destination_fqdn 8 *string;
        http_status_code 9 *string; source_label 10 *string; destination_label 11 *string; protocol 12 *string;
        source_port 13 *string; destination_port 14 *string; reply 15 *bool; source_service 16 *string;
        destination_service 17 *string; dns_query 18 *string; source_identity 19 *uint32;
        destination_identity 20 *uint32; http_method 21 *string; http_path 22 *string; tcp_flags 23 *TCPFlags;
        node_name 24 *string; ip_version 25 *IPVersion; source_workload 26 *Workload; destination_workload 27 *Workload;
        trace_id 28 *string; uuid 29 *string; traffic_direction 30 *TrafficDirection; http_url 31 *string;
        http_header 32 *HTTPHeader; drop_reason_desc 33 *DropReason; source_ip_xlated 34 *string;
        interface 35 *NetworkInterface; node_labels 36 *string; source_cluster_name 37 *string;
        destination_cluster_name 38 *string; ip_trace_id 39 *uint64; encrypted 40 *bool;
        experimental 999 Experimental""",
    "observer.GetFlowsRequest": """number 1 uint64; follow 3 bool; blacklist 5 *flow.FlowFilter; whitelist 6 *flow.FlowFilter;
        since 7 Timestamp; until 8 Timestamp; first 9 bool; field_mask 10 FieldMask""",
    "observer.GetFlowsResponse": """flow 1 flow.Flow @response_types; lost_events 3 flow.LostEvent @response_types;
        node_name 1000 string; time 1001 Timestamp""",
    "observer.GetAgentEventsRequest": "number 1 uint64; follow 2 bool; since 7 Timestamp; until 8 Timestamp; first 9 bool",
    "observer.GetAgentEventsResponse": "node_name 1000 string; time 1001 Timestamp",
    "observer.GetDebugEventsRequest": "number 1 uint64; follow 2 bool; since 7 Timestamp; until 8 Timestamp; first 9 bool",
    "observer.GetDebugEventsResponse": "node_name 1000 string; time 1001 Timestamp",
    "observer.ServerStatusRequest": "",
    "observer.ServerStatusResponse": """num_flows 1 uint64; max_flows 2 uint64; seen_flows 3 uint64; uptime_ns 4 uint64;
        num_connected_nodes 5 UInt32Value; num_unavailable_nodes 6 UInt32Value; unavailable_nodes 7 *string;
        version 8 string; flows_rate 9 double""",
    "observer.GetNodesRequest": "",
    "observer.GetNodesResponse": "nodes 1 *Node",
    "observer.Node": """name 1 string; version 2 string; address 3 string; state 4 NodeState; tls 5 TLS; uptime_ns 6 uint64;
        num_flows 7 uint64; max_flows 8 uint64; seen_flows 9 uint64""",
    "observer.TLS": "enabled 1 bool; server_name 2 string",
    "observer.GetNamespacesRequest": "",
    "observer.GetNamespacesResponse": "namespaces 1 *Namespace",
    "observer.Namespace": "cluster 1 string; namespace 2 string",
    "peer.NotifyRequest": "",
    "peer.ChangeNotification": "name 1 string; address 2 string; type 3 ChangeNotificationType; tls 4 TLS",
    "peer.TLS": "server_name 1 string",
    "grpc.health.v1.HealthCheckRequest": "service 1 string",
    "grpc.health.v1.HealthCheckResponse": "status 1 ServingStatus",
}  # fmt: skip

ENUMS: dict[str, dict[int, str]] = {
    "flow.Verdict": dict(enumerate((
        "VERDICT_UNKNOWN", "FORWARDED", "DROPPED", "ERROR", "AUDIT", "REDIRECTED", "TRACED", "TRANSLATED",
    ))),
    "flow.FlowType": dict(enumerate(("UNKNOWN_TYPE", "L3_L4", "L7", "SOCK"))),
    "flow.TrafficDirection": dict(enumerate(("TRAFFIC_DIRECTION_UNKNOWN", "INGRESS", "EGRESS"))),
    "flow.IPVersion": dict(enumerate(("IP_NOT_USED", "IPv4", "IPv6"))),
    "flow.L7FlowType": dict(enumerate(("UNKNOWN_L7_TYPE", "REQUEST", "RESPONSE", "SAMPLE"))),
    "flow.TraceObservationPoint": {0: "UNKNOWN_POINT", 5: "FROM_ENDPOINT", 101: "TO_ENDPOINT"},
    "flow.DropReason": {0: "DROP_REASON_UNKNOWN"} | dict(sorted(DROP_REASONS.values())),
    "flow.LostEventSource": dict(enumerate((
        "UNKNOWN_LOST_EVENT_SOURCE", "PERF_EVENT_RING_BUFFER", "OBSERVER_EVENTS_QUEUE", "HUBBLE_RING_BUFFER",
    ))),
    "observer.NodeState": dict(enumerate((
        "UNKNOWN_NODE_STATE", "NODE_CONNECTED", "NODE_UNAVAILABLE", "NODE_GONE", "NODE_ERROR",
    ))),
    "peer.ChangeNotificationType": dict(enumerate(("UNKNOWN", "PEER_ADDED", "PEER_DELETED", "PEER_UPDATED"))),
    "grpc.health.v1.ServingStatus": dict(enumerate((
        "SERVING_STATUS_UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN",
    ))),
}  # fmt: skip
"""A value that is not here travels as its number."""
