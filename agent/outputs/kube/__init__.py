"""What the agent writes to the API server.

events: Events on pods. policy_status: conditions of policies and bindings. node_report: one node's part of these.
lease: who writes them. leases, own_node: the requests about Leases and this Node.
"""
