"""The blob store a URL names."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from palaver.blobs.objects import ObjectBlobs


def open_blobs(url: str | Path) -> ObjectBlobs:
    """Open `s3://bucket/prefix?…`, `file:<folder>` or a `Path`, `memory:`, or another storage that obstore knows. Raises ConfigError."""
    if not isinstance(url, Path) and urlsplit(url).scheme == "s3":
        from palaver.blobs.s3 import S3Blobs

        return S3Blobs(url)
    return ObjectBlobs(url)
