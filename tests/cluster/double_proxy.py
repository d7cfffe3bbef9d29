"""Two small services beside FlyteAdmin's: signed addresses of the bucket, and where one logs in."""

from __future__ import annotations

import base64
from typing import Any

import grpc
from double_execution import Execution
from double_rules import Refused
from double_store import Store
from flyteidl.service import auth_pb2, auth_pb2_grpc, dataproxy_pb2, dataproxy_pb2_grpc


class Proxy(dataproxy_pb2_grpc.DataProxyServiceServicer, auth_pb2_grpc.AuthMetadataServiceServicer):
    """Mixed into the double of FlyteAdmin, which knows the executions."""

    store: Store
    token_endpoint: str

    def running(self, identifier: Any) -> Execution:
        """The execution with this id; refused where there is none."""
        raise NotImplementedError

    def CreateUploadLocation(self, request: Any, context: Any) -> Any:
        """flyteadmin/dataproxy/service.go: a signed address below a folder named after the
        content.
        """
        digest = base64.b32encode(request.content_md5).decode().rstrip("=")
        folder = request.filename_root or digest
        name = f"uploads/{request.project}/{request.domain}/{folder}/{request.filename}"
        return dataproxy_pb2.CreateUploadLocationResponse(
            signed_url=self.store.signed("put_object", name), native_url=self.store.uri(name)
        )

    def CreateDownloadLink(self, request: Any, context: Any) -> Any:
        """flyteadmin/dataproxy/service.go: only a node that has a deck gets a link to it."""
        node = request.node_execution_id
        for one in self.running(node.execution_id).nodes:
            if one.path == node.node_id and one.deck:
                url = self.store.signed("get_object", self.store.name(one.deck))
                urls = dataproxy_pb2.PreSignedURLs(signed_url=[url])
                return dataproxy_pb2.CreateDownloadLinkResponse(pre_signed_urls=urls)
        raise Refused(grpc.StatusCode.NOT_FOUND, f"{node.node_id} has no deck")

    def GetOAuth2Metadata(self, request: Any, context: Any) -> Any:
        return auth_pb2.OAuth2MetadataResponse(token_endpoint=self.token_endpoint)

    def GetPublicClientConfig(self, request: Any, context: Any) -> Any:
        return auth_pb2.PublicClientAuthConfigResponse(
            client_id="flytectl", authorization_metadata_key="authorization"
        )
