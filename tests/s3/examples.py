"""The signed requests that AWS publishes for S3, and presigned URLs; parsing and verifying in short."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from botocore.config import Config
from botocore.session import Session

from objectcache.s3 import SignedRequest, parse_authorization, verify
from tests.s3.wire import ACCESS_KEY, EMPTY_SHA256, EXAMPLE_TIMESTAMP, SECRET_KEY, Request

URL = "http://127.0.0.1:9000"
AUTHORIZATION = (
    f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20130524/us-east-1/s3/aws4_request,SignedHeaders={{}},Signature={{}}"
)
HOST = "examplebucket.s3.amazonaws.com"
EXAMPLES = {
    "range": (
        Request("GET", "/test.txt", "", {"Range": "bytes=0-9"}),
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    ),
    "put": (
        Request(
            "PUT",
            "/test%24file.text",
            "",
            {
                "Date": "Fri, 24 May 2013 00:00:00 GMT",
                "x-amz-storage-class": "REDUCED_REDUNDANCY",
                "x-amz-content-sha256": "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
            },
        ),
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    ),
    "sub-resource": (
        Request("GET", "/", "lifecycle", {}),
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    ),
    "query": (
        Request("GET", "/", "max-keys=2&prefix=J", {}),
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    ),
}


def example(name: str) -> Request:
    request, signature = EXAMPLES[name]
    headers = {"host": HOST, "x-amz-date": EXAMPLE_TIMESTAMP, "x-amz-content-sha256": EMPTY_SHA256}
    headers |= {name.lower(): value for name, value in request.headers.items()}
    authorization = AUTHORIZATION.format(";".join(sorted(headers)), signature)
    return replace(request, headers={**headers, "authorization": authorization})


def presign(operation: str, expires_s: int = 3600, **parameters: Any) -> str:
    client = Session().create_client(
        "s3",
        "eu-central-1",
        endpoint_url=URL,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    url: str = client.generate_presigned_url(operation, Params=parameters, ExpiresIn=expires_s)
    return url


def parse(request: Request) -> SignedRequest:
    signed = parse_authorization(request.method, request.path, request.query, request.headers)
    assert signed is not None
    return signed


def check(request: Request, now_s: float | None = None, secret: str | None = SECRET_KEY) -> SignedRequest:
    signed = parse(request)
    verify(signed, secret, time.time() if now_s is None else now_s)
    return signed
