"""A Hubble client made from tests/data/hubble by protoc, which knows nothing of the agent's own tables."""

from __future__ import annotations

import importlib
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
from google.protobuf import json_format, struct_pb2  # noqa: F401  the second for what is in `extensions`
from grpc_tools import protoc

PROTOS = Path(__file__).parent / "data" / "hubble"


@cache
def modules() -> dict[str, ModuleType]:
    """Compiled once a process; Google's own come with grpcio-tools."""
    folder = tempfile.mkdtemp(prefix="hubble-protos-")
    own = str(Path(protoc.__file__).parent / "_proto")
    files = [str(path) for path in sorted(PROTOS.glob("*.proto"))]
    assert (
        protoc.main(["", f"-I{PROTOS}", f"-I{own}", f"--python_out={folder}", f"--grpc_python_out={folder}", *files])
        == 0
    )
    sys.path.insert(0, folder)
    names = [f"{path.stem}_pb2{kind}" for path in PROTOS.glob("*.proto") for kind in ("", "_grpc")]
    try:
        return {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(folder)


class HubbleClient:
    """Asks one server; `target` as gRPC writes it: `unix:/path`, `127.0.0.1:4244`."""

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None = None, name: str = "") -> None:
        made = modules()
        options = (("grpc.ssl_target_name_override", name),) if name else ()
        self.channel = (
            grpc.secure_channel(target, credentials, options)
            if credentials
            else grpc.insecure_channel(target, options)
        )
        self.messages: Any = made["observer_pb2"]
        self.filters: Any = made["flow_pb2"]
        self.observer: Any = made["observer_pb2_grpc"].ObserverStub(self.channel)
        self.peer: Any = made["peer_pb2_grpc"].PeerStub(self.channel)
        self.peers: Any = made["peer_pb2"]
        self.health: Any = made["health_pb2_grpc"].HealthStub(self.channel)
        self.health_messages: Any = made["health_pb2"]

    def flows(self, **request: Any) -> list[dict[str, Any]]:
        """Whole answers as protojson, by a request in protojson."""
        return [as_json(answer) for answer in self.stream(**request)]

    def stream(self, timeout: float = 20, **request: Any) -> Any:
        asked = json_format.ParseDict(request, self.messages.GetFlowsRequest())
        return self.observer.GetFlows(asked, timeout=timeout)

    def close(self) -> None:
        self.channel.close()


def as_json(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
