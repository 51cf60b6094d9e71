"""boto3, as the tests use it: clients for a gateway, and the same interface as the command lines have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from objectcache.s3 import Credentials
from tests.s3_clients.tools import REGION, Tool, ToolError

try:
    import boto3
    import botocore.exceptions
    from botocore.config import Config
except ModuleNotFoundError as error:
    MISSING = f"{error.name} is not installed: pip install boto3"
else:
    MISSING = ""


def client(endpoint: str, keys: Credentials, *, verify: Path | None = None, **options: Any) -> Any:
    """`options` are botocore's. Nothing is tried twice."""
    options = {"s3": {"addressing_style": "path"}, "retries": {"total_max_attempts": 1}} | options
    return boto3.session.Session().client(
        "s3",
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        verify=None if verify is None else str(verify),
        config=Config(**options),
    )


def refusal(call: Any, **parameters: Any) -> tuple[str, int]:
    """The code and status of the error that a call ends with. Fails where it succeeds."""
    try:
        call(**parameters)
    except botocore.exceptions.ClientError as error:
        return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
    raise AssertionError("this was to be refused")


class Boto3(Tool):
    name = "boto3"

    def __init__(self, endpoint: str, keys: Credentials, bucket: str, home: Path) -> None:
        super().__init__(endpoint, keys, bucket, home)
        self.client = client(endpoint, keys)

    @classmethod
    def missing(cls) -> str:
        return MISSING

    def put(self, path: Path, key: str) -> None:
        try:
            self.client.upload_file(str(path), self.bucket, key)
        except boto3.exceptions.S3UploadFailedError as error:
            raise ToolError(str(error)) from error

    def get(self, key: str, path: Path) -> None:
        try:
            # Without the HEAD before it, whose refusals have no body.
            path.write_bytes(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        except botocore.exceptions.ClientError as error:
            raise ToolError(str(error)) from error

    def get_tail(self, key: str, first: int, path: Path) -> bytes:
        content: bytes = self.client.get_object(Bucket=self.bucket, Key=key, Range=f"bytes={first}-")["Body"].read()
        return content

    def list(self, prefix: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def copy(self, source: str, target: str) -> None:
        self.client.copy({"Bucket": self.bucket, "Key": source}, self.bucket, target)

    def sync_up(self, folder: Path, prefix: str) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(path, prefix + path.relative_to(folder).as_posix())

    def sync_down(self, prefix: str, folder: Path) -> None:
        for key in self.list(prefix):
            path = folder / key.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.client.download_file(self.bucket, key, str(path))

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)

    def delete_all(self, prefix: str) -> None:
        objects = [{"Key": key} for key in self.list(prefix)]
        answer = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
        assert "Errors" not in answer
