"""The bucket in which the doubles keep what Flyte keeps in its metadata bucket (moto's S3)."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError


class Store:
    """A new bucket of the S3 server at `endpoint`; names are keys in it."""

    def __init__(self, endpoint: str, bucket: str) -> None:
        self.endpoint, self.bucket = endpoint, bucket
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )
        self._client.create_bucket(Bucket=bucket)

    def uri(self, name: str) -> str:
        return f"s3://{self.bucket}/{name}"

    def name(self, uri: str) -> str:
        return uri.removeprefix(f"s3://{self.bucket}/")

    def write(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self.bucket, Key=name, Body=data)

    def read(self, name: str) -> bytes | None:
        """An object's bytes, or None where there is none."""
        try:
            data: bytes = self._client.get_object(Bucket=self.bucket, Key=name)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise
        return data

    def names(self, prefix: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        )
        return [one["Key"] for page in pages for one in page.get("Contents", [])]

    def signed(self, method: str, name: str) -> str:
        """An address that may do one thing, as long as the test runs."""
        url: str = self._client.generate_presigned_url(
            method, Params={"Bucket": self.bucket, "Key": name}
        )
        return url

    def content_type(self, name: str) -> str:
        kind: str = self._client.head_object(Bucket=self.bucket, Key=name)["ContentType"]
        return kind
