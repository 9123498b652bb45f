"""An endpoint in this process, without Ray: its models loaded, then served by uvicorn until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette

from regraft.endpoint.api_keys import ApiKeys
from regraft.endpoint.app import Endpoint
from regraft.endpoint.backend import Backend, EngineBackend
from regraft.endpoint.http_protocol import BoundedProtocol
from regraft.endpoint.metrics import Metrics
from regraft.endpoint.routes import ModelRoutes
from regraft.errors import RequestError
from regraft.spec.serve import ServeSpec
from regraft.store.objects import open_store

BACKLOG = 512


class OpenEndpoint:
    """An endpoint whose models are loaded: its application, and everything that must be closed after it."""

    def __init__(self, spec: ServeSpec, *, backend: Backend | None = None, metrics: Metrics | None = None) -> None:
        self.spec = spec
        store = open_store(spec.store)
        self.backend = backend or EngineBackend(store, spec, metrics)
        self.routes = ModelRoutes(store, spec, self.backend.open, metrics)
        try:
            self.routes.start()
            self.endpoint = Endpoint(spec, self.routes, self.backend, _keys_of(spec), metrics=metrics)
        except BaseException:
            self.close()
            raise
        self.endpoint.ready = True

    def application(self) -> Starlette:
        """Return the ASGI application."""
        return self.endpoint.application()

    def close(self) -> None:
        """Answer the waiting requests, then release everything."""
        self.routes.close()
        self.backend.close()


def _keys_of(spec: ServeSpec) -> ApiKeys:
    return ApiKeys.found(spec.keys, gone_seconds=spec.keys_gone_seconds)


def refuse_open_doors(spec: ServeSpec, *, everywhere: bool = False) -> None:
    """Raise RequestError when the endpoint would be reachable from other machines and require no key.

    `everywhere` means that it listens on every interface, whatever `host` is.
    """
    if spec.open_to_all or not (everywhere or spec.beyond()) or ApiKeys.found(spec.keys).required:
        return
    if everywhere and not spec.beyond():
        raise RequestError(
            "with haproxy the replicas listen on every interface and there are no keys, so that anybody could ask: "
            "make one with `regraft key NAME --keys FILE` and pass --keys FILE, write open_to_all: true if this "
            "machine cannot be reached from others, or leave haproxy out",
            where="proxy",
        )
    raise RequestError(
        f"{spec.host} is reached from other machines and there are no keys, so that anybody could ask: make one with "
        "`regraft key NAME --keys FILE` and pass --keys FILE, or listen on 127.0.0.1",
        where="host",
    )


def server_of(app: Starlette, spec: ServeSpec) -> uvicorn.Server:
    """Return a server that has not started."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=spec.host,
            port=spec.port,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=int(spec.scaling.drain_seconds),
        )
    )


@contextlib.contextmanager
def serving(spec: ServeSpec, address: str | None = None) -> Iterator[str]:
    """Load a spec's models in this process and serve them; yields the URL. A Ray `address` is refused."""
    if address:
        raise RequestError(f"{address} is written, and --replicas 0, which is without Ray: leave out one", "address")
    refuse_open_doors(spec)
    with running(OpenEndpoint(spec)) as url:
        yield url


@contextlib.contextmanager
def running(opened: OpenEndpoint) -> Iterator[str]:
    """Serve from another thread; yields the URL. Requests under way are answered before it stops."""
    server = server_of(opened.application(), opened.spec)
    failed: list[BaseException] = []

    def serve() -> None:
        try:
            asyncio.run(server.serve())
        except BaseException as error:  # uvicorn raises SystemExit when the port is taken
            failed.append(error)

    thread = threading.Thread(target=serve, name="regraft-http", daemon=True)
    thread.start()
    try:
        while not server.started:
            thread.join(0.02)
            if not thread.is_alive():
                raise RequestError(f"{opened.spec.host}:{opened.spec.port} cannot be listened on: is it taken?", "port")
        yield url_of(opened.spec, port_of(server))
    finally:
        server.should_exit = True
        thread.join()
        opened.close()


def port_of(server: uvicorn.Server) -> int:
    """Return the port that a started server listens on."""
    return int(server.servers[0].sockets[0].getsockname()[1])


def url_of(spec: ServeSpec, port: int) -> str:
    """Return the URL of an endpoint."""
    host = "127.0.0.1" if spec.host in ("0.0.0.0", "::") else spec.host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
