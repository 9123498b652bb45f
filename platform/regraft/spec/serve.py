"""What may be written about an endpoint: which models, for whom, within which limits, on how many replicas."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from regraft.errors import RequestError, SpecError
from regraft.plugins import Frozen
from regraft.spec.document import absolute, merged, problem, read_document
from regraft.store.names import is_version, parse

EVERY = "*"
_SUM_SLACK = 1e-6


class LimitSpec(Frozen):
    """What one request may ask, and how many may wait. More is refused with 413, 408 or 503."""

    body_bytes: int = Field(8 << 20, ge=1)
    """Bytes of a request's body, counted while they arrive."""
    items: int = Field(64, ge=1)
    """Inputs in one request."""
    tokens: int = Field(32_768, ge=1)
    """Tokens of all texts of one request, after each was cut to what its model reads."""
    megapixels: float = Field(25.0, gt=0, le=100)
    """Pixels of one image, in millions, told by its header before anything is decoded."""
    all_megapixels: float = Field(100.0, gt=0)
    """Pixels of all images of one request, in millions: a few kilobytes may hold very many."""
    depth: int = Field(16, ge=2, le=100)
    """How deep JSON may be nested."""
    queue: int = Field(128, ge=1)
    """Requests that a replica holds at once, waiting or being answered; the next is refused at once with 503 and
    Retry-After."""
    body_seconds: float = Field(10.0, gt=0)
    """How long a body may take to arrive."""
    seconds: float = Field(30.0, gt=0)
    """How long an answer may take."""


class ScalingSpec(Frozen):
    """How many replicas there are, by how much is asked."""

    min_replicas: int = Field(1, ge=0)
    """0: none while nobody asks; the first request then waits for one to start."""
    max_replicas: int = Field(1, ge=1)
    """The most there may be."""
    target: float = Field(16.0, gt=0)
    """Requests that a replica has at once when there are enough replicas."""
    up_seconds: float = Field(5.0, ge=0)
    """How long the load lasts before replicas are added."""
    down_seconds: float = Field(60.0, ge=0)
    """How long replicas are idle before some are taken away."""
    drain_seconds: float = Field(30.0, gt=0)
    """How long a replica that ends may take for what it has begun."""

    @model_validator(mode="after")
    def _fewest_comes_first(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas is {self.min_replicas}, max_replicas {self.max_replicas}: raise one or lower the other"
            )
        return self


class ReplicaSpec(Frozen):
    """What one replica holds."""

    cpus: float = Field(1.0, gt=0)
    """CPUs, and threads of its arithmetic."""
    gpus: float | Literal["auto"] = "auto"
    """GPUs, or a share of one; auto is 1 where the cluster has any."""
    memory_gb: float | None = Field(None, gt=0)
    """Memory to reserve."""
    budget_mb: int = Field(2048, ge=1)
    """Memory for deltas that are kept loaded; those asked longest ago go first."""


class ServeSpec(Frozen):
    """The whole endpoint."""

    format: Literal[1] = 1
    """Version of this format."""
    models: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = (EVERY,)
    """Models of the registry: `name`, or `name@alias` or `name@v3`, which is then what the bare name answers by
    (else the newest version). `*` is every model, also those that come later."""
    aliases: dict[str, dict[str, Annotated[float, Field(gt=0, le=1)]]] = Field(default_factory=dict)
    """Shares of an alias's requests by version: {production: {v3: 0.9, v4: 0.1}}, or with several models
    {support-tickets@production: {...}}. They replace what the registry says of that alias."""
    store: Annotated[str, StringConstraints(min_length=1)] = "./regraft-store"
    """Folder or s3://bucket/prefix of the registry."""
    host: str = "127.0.0.1"
    """Where to listen. Beyond this machine (0.0.0.0) only with keys."""
    port: int = Field(8000, ge=0, le=65535)
    """0: any that is free, where the endpoint runs without Ray."""
    keys: str | None = None
    """File of keys (`regraft key`); null looks into the variable REGRAFT_KEYS, and without it nobody is asked."""
    open_to_all: bool = False
    """Whoever reaches it may ask, without keys: only behind something that asks in its place."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Arithmetic; auto is bf16 where it is native and agrees with fp32."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    limits: LimitSpec = LimitSpec()
    """What a request may ask."""
    scaling: ScalingSpec = ScalingSpec()
    """How many replicas."""
    replica: ReplicaSpec = ReplicaSpec()
    """What one replica holds."""
    proxy: Literal["auto", "python", "haproxy"] = "auto"
    """What stands before the replicas on Ray; auto is python. haproxy refuses faster under overload, and its figures
    and the replicas listen on every interface, so it is for an endpoint with keys."""
    refresh_seconds: float = Field(2.0, gt=0)
    """How often the registry is looked at for versions and aliases that moved."""
    bases: dict[str, str] = Field(default_factory=dict)
    """Where bases are now that are not where their versions say: the base's hash with a reference."""
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

    @model_validator(mode="after")
    def _shares_are_whole(self) -> Self:
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
        """Read a YAML file; relative paths count from the current directory. SpecError holds all problems at once."""
        document = read_document(path, "a serve spec is a mapping of keys (models, store, limits, ...)")
        return cls.resolve(document, overrides=overrides, where=str(path))

    @classmethod
    def resolve(
        cls, document: Mapping[str, Any], *, overrides: Mapping[str, object] | None = None, where: str = ""
    ) -> Self:
        """A spec from a parsed document, overrides applied and paths made absolute; SpecError tells all problems."""
        document = merged(document, overrides or {}, where)
        try:
            spec = cls.model_validate(document)
        except ValidationError as error:
            problems = tuple(dict.fromkeys(problem(item, cls, document) for item in error.errors()))
            raise SpecError(problems, where) from None
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
        """The resolved spec as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def beyond(self) -> bool:
        """Whether others than this machine are listened to."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True
