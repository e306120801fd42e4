"""The flows as Hubble's services give them over gRPC: observer.Observer, peer.Peer and health, for stock clients."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before its first import: its lines are no JSON
