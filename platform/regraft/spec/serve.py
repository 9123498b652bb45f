"""The spec of an endpoint: its models, access, limits and replicas."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from regraft.errors import RequestError, SpecError
from regraft.plugins import Frozen
from regraft.spec.document import absolute, merged, read_document
from regraft.spec.problems import problems
from regraft.store.bounded_yaml import dump_yaml
from regraft.store.names import is_version, parse

EVERY = "*"
ANY_ORIGIN = "*"
NO_ORIGIN = "null"
"""The origin that browsers send for a page without one: a file, or a frame in a sandbox."""
PORTS = {"http": "80", "https": "443"}
"""Ports that browsers leave out of an origin."""
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?")
_SUM_SLACK = 1e-6


class LimitSpec(Frozen):
    """Limits of one request, and of requests that wait; what exceeds them is refused with 413, 408 or 503."""

    body_bytes: int = Field(8 << 20, ge=1)
    """Bytes of a request's body, counted while they arrive."""
    items: int = Field(64, ge=1)
    """Inputs in one request."""
    tokens: int = Field(32_768, ge=1)
    """Tokens of all texts of one request, after each was cut to what its model reads."""
    megapixels: float = Field(25.0, gt=0, le=100)
    """Pixels of one image, in millions, read from its header before anything is decoded."""
    all_megapixels: float = Field(100.0, gt=0)
    """Pixels of all images of one request, in millions: a few kilobytes may decode to very many."""
    depth: int = Field(16, ge=2, le=100)
    """Nesting depth of JSON."""
    queue: int = Field(128, ge=1)
    """Requests that a replica holds at once, waiting or being answered; further ones are refused with 503 and
    Retry-After."""
    body_seconds: float = Field(10.0, gt=0)
    """Time in which a body must arrive."""
    seconds: float = Field(30.0, gt=0)
    """Time in which a request must be answered."""


class ScalingSpec(Frozen):
    """Number of replicas, by load."""

    min_replicas: int = Field(1, ge=0)
    """Fewest replicas; with 0, the first request after an idle time waits for a replica to start."""
    max_replicas: int = Field(1, ge=1)
    """Most replicas."""
    target: float = Field(16.0, gt=0)
    """Concurrent requests per replica at which the number of replicas is right."""
    up_seconds: float = Field(5.0, ge=0)
    """Time for which the load must last before replicas are added."""
    down_seconds: float = Field(60.0, ge=0)
    """Time for which replicas must be idle before some are removed."""
    drain_seconds: float = Field(30.0, gt=0)
    """Time that a replica has to finish its requests when it is stopped."""

    @model_validator(mode="after")
    def _fewest_comes_first(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas is {self.min_replicas}, max_replicas {self.max_replicas}: raise one or lower the other"
            )
        return self


class ReplicaSpec(Frozen):
    """Resources of one replica."""

    cpus: float = Field(1.0, gt=0)
    """CPUs, and compute threads."""
    gpus: float | Literal["auto"] = "auto"
    """GPUs, or a share of one; auto is 1 where the cluster has any."""
    memory_gb: float | None = Field(None, gt=0)
    """Memory to reserve."""
    budget_mb: int = Field(2048, ge=1)
    """Memory for loaded deltas; the least recently used are unloaded first."""


class ServeSpec(Frozen):
    """An endpoint."""

    format: Literal[1] = 1
    """Version of this format."""
    models: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = (EVERY,)
    """Models of the registry: `name`, or `name@alias` or `name@v3` for the version that the bare name serves (else the
    newest). `*` is every model, including later ones."""
    aliases: dict[str, dict[str, Annotated[float, Field(gt=0, le=1)]]] = Field(default_factory=dict)
    """Shares of an alias's requests by version: {production: {v3: 0.9, v4: 0.1}}, or with several models
    {support-tickets@production: {...}}. They replace the registry's entry of that alias."""
    store: Annotated[str, StringConstraints(min_length=1)] = "./regraft-store"
    """Folder or s3://bucket/prefix of the registry."""
    host: str = "127.0.0.1"
    """Address to listen on; other than this machine's own (0.0.0.0) only with keys."""
    port: int = Field(8000, ge=0, le=65535)
    """Port; 0 takes a free one, for an endpoint without Ray."""
    keys: str | None = None
    """File of API keys (`regraft key`); null takes that of the variable REGRAFT_KEYS, else requests need no key."""
    keys_gone_seconds: float = Field(60.0, ge=0)
    """How long keys stay in force once their file cannot be read; then every request is refused."""
    open_to_all: bool = False
    """Serve requests without keys on any address: only behind a proxy that authenticates clients."""
    allow_origins: tuple[str, ...] = ()
    """Origins of web pages whose scripts may ask, such as https://app.example.org; the endpoint's own pages always may.
    `*` is every page of every site."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Arithmetic; auto is bf16 where it is native and agrees with fp32."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    limits: LimitSpec = LimitSpec()
    """Limits of requests."""
    scaling: ScalingSpec = ScalingSpec()
    """Number of replicas."""
    replica: ReplicaSpec = ReplicaSpec()
    """Resources of one replica."""
    proxy: Literal["auto", "python", "haproxy"] = "auto"
    """Proxy in front of the replicas on Ray; auto is python. haproxy refuses faster under overload: the one to use
    beyond this machine. The replicas listen on every interface then, so it needs keys."""
    refresh_seconds: float = Field(2.0, gt=0)
    """Interval at which the registry is read for new versions and moved aliases."""
    bases: dict[str, str] = Field(default_factory=dict)
    """New places of bases that have moved since their versions were registered: reference by the base's hash."""
    plugins: tuple[str, ...] = ()
    """Folders with your own tasks/ and methods/."""

    @field_validator("models")
    @classmethod
    def _models_are_references(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        names = []
        for written in models:
            try:
                names.append(written if written == EVERY else parse(written)[0])
            except RequestError as error:
                raise ValueError(error.message) from None
        if not names:
            raise ValueError("no model is written; write names, or * for every model of the registry")
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{', '.join(sorted(twice))} is written more than once: a bare name has one meaning")
        return models

    @field_validator("allow_origins", mode="before")
    @classmethod
    def _one_origin_is_a_list(cls, written: object) -> object:
        return (written,) if isinstance(written, str) else written

    @field_validator("allow_origins")
    @classmethod
    def _origins_as_browsers_send_them(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(origin_as_sent, origins)))

    @model_validator(mode="after")
    def _shares_add_up_to_one(self) -> Self:
        named = [parse(written)[0] for written in self.models if written != EVERY]
        for alias, shares in self.aliases.items():
            if "@" not in alias and (len(named) != 1 or EVERY in self.models):
                raise ValueError(f"aliases.{alias}: several models are served; write model@{alias}")
            for version in shares:
                if not is_version(version):
                    raise ValueError(f"aliases.{alias}: {version!r} is written; allowed are versions such as v3")
            if abs(sum(shares.values()) - 1) > _SUM_SLACK:
                raise ValueError(f"aliases.{alias}: the shares add up to {sum(shares.values()):g}; they make 1")
        return self

    @classmethod
    def load(cls, path: Path, *, overrides: Mapping[str, object] | None = None) -> Self:
        """Return the spec in a YAML file; relative paths are relative to the current directory.

        Raises RequestError for a file that cannot be read, and SpecError with all problems at once.
        """
        document = read_document(path, "a serve spec is a mapping of keys (models, store, limits, ...)")
        return cls.resolve(document, overrides=overrides, where=str(path))

    @classmethod
    def resolve(
        cls, document: Mapping[str, Any], *, overrides: Mapping[str, object] | None = None, where: str = ""
    ) -> Self:
        """Return the spec in a parsed document, with overrides applied and paths made absolute.

        Raises SpecError with all problems at once; `where` names the document in it.
        """
        document = merged(document, overrides or {}, where)
        try:
            spec = cls.model_validate(document)
        except ValidationError as error:
            raise SpecError(problems(error, cls, document), where) from None
        return spec.model_copy(
            update={
                "store": absolute(spec.store),
                "plugins": tuple(absolute(folder) for folder in spec.plugins),
                "keys": absolute(spec.keys) if spec.keys else None,
            }
        )

    @property
    def shares(self) -> dict[tuple[str, str], dict[str, float]]:
        """`aliases` by (model, alias)."""
        only = next((parse(written)[0] for written in self.models if written != EVERY), "")
        found = {}
        for alias, shares in self.aliases.items():
            model, at, name = alias.rpartition("@")
            found[model if at else only, name] = shares
        return found

    def dump(self) -> str:
        """Return the resolved spec as YAML."""
        return dump_yaml(self.model_dump(mode="json"))

    def beyond(self) -> bool:
        """Return whether the endpoint listens on an address that other machines reach."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True


def origin_as_sent(written: str) -> str:
    """Return an origin as browsers send it. Raises ValueError for anything else, such as a page's address."""
    lowered = written.strip().lower().removesuffix("/")
    if lowered in (ANY_ORIGIN, NO_ORIGIN):
        return lowered
    found = _ORIGIN.fullmatch(lowered)
    if found is None:
        raise ValueError(
            f"{written!r} is written; an origin is scheme://host[:port] without a path or a pattern, such as "
            "https://app.example.org or http://localhost:3000; '*' is every page"
        )
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" if port in (None, PORTS.get(scheme)) else f"{scheme}://{host}:{int(port)}"
