"""An S3 server in this process, on loopback: moto's, which keeps all objects in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

SECRET = "a-secret-of-aws"
BUCKET = "bucket"


@contextmanager
def running() -> Iterator[Any]:
    """Yield boto3's client of a server with one bucket; in the block, every `s3://` address leads to it."""
    moto = pytest.importorskip("moto.server", reason="needs moto, of the extra dev")
    boto3 = pytest.importorskip("boto3", reason="needs boto3, of the extra s3")
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs, of the extra s3")
    s3fs.S3FileSystem.clear_instance_cache()
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "user")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        try:
            client = boto3.client("s3")
            client.create_bucket(Bucket=BUCKET)
            yield client
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            server.stop()
            server._server.server_close()


def names(client: Any, prefix: str = "") -> list[str]:
    """Return the keys in the bucket under a prefix."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", ())]
