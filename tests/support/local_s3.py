"""The environment that points boto3 at a server of a test."""

from __future__ import annotations

import os

import pytest

OF_OTHER_SERVERS = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_CA_BUNDLE")
"""Settings that would win over those of the test: a run against a real server sets some of them."""


def local_server(environment: pytest.MonkeyPatch, endpoint: str) -> None:
    """Configure boto3 for a local server, regardless of the machine's configuration."""
    for name in OF_OTHER_SERVERS:
        environment.delenv(name, raising=False)
    environment.setenv("AWS_ENDPOINT_URL", endpoint)
    environment.setenv("AWS_ACCESS_KEY_ID", "test-key")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t-never-shown")
    environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
    environment.setenv("AWS_CONFIG_FILE", os.devnull)
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    environment.setenv("NO_PROXY", "127.0.0.1")
