"""Pictures of strangers are bounded by what they cost: each is refused or answered, and others are not held up."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import random
import resource
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from regraft.contracts import BadCell
from regraft.contracts.column import column_of
from regraft.errors import DataError
from regraft.media.pixels import cost
from regraft.media.pixels.decoding import plain_picture
from regraft.media.pixels.images import open_rgb, upright_size
from support.costly_pictures import COSTLY, DOUBTFUL, GENERATED, SAVED, avif, flat, harmless, noise, photo, saved
from support.picture_sender import post
from support.processes import free_port
from unit.endpoint.model_store import Endpoint, ModelStore

TASKS = ("image-classification", "object-detection", "semantic-segmentation")
ANSWERED = (*range(200, 300), *range(400, 500))
PICTURE = {"content-type": "image/*"}
RATE = 10
"""Pictures a second, ordinary ones and others."""
TURN = 50
"""Pictures of each kind by turns."""
Maker = Callable[[random.Random], bytes]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    made = ModelStore(tmp_path_factory.mktemp("pictures"))
    for task in TASKS:
        made.add(task)
    return made


def ask(endpoint: Endpoint, task: str, body: bytes) -> int:
    try:
        return endpoint.ask(f"/models/{task}", body, headers=PICTURE).status
    except (BrokenPipeError, ConnectionResetError):
        assert len(body) > 1 << 20  # refused by its length, before it was read
        return 413


@pytest.mark.parametrize("make", COSTLY, ids=lambda make: make.__name__)
def test_a_costly_picture_is_refused_where_data_are_read(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    body, started = make(random.Random(1)), time.monotonic()
    if make.__name__ == "large":
        return  # as much as the data may have
    (tmp_path / "a.png").write_bytes(body)
    with pytest.raises(BadCell) as refused:
        column_of("image").read_cell("a.png", str(tmp_path))
    assert "cannot be used" in str(refused.value)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("make", COSTLY, ids=lambda make: make.__name__)
def test_a_costly_picture_is_refused_by_every_task(make: Maker, served: ModelStore) -> None:
    body = make(random.Random(2))
    with served.open() as endpoint:
        for task in TASKS:
            assert ask(endpoint, task, body) in (413, 422)


@pytest.mark.parametrize("kind", SAVED)
def test_a_harmless_picture_has_the_pixels_that_it_had(kind: str) -> None:
    body = saved(noise((40, 30), random.Random(3)), kind)
    assert np.array_equal(np.asarray(open_rgb(plain_picture(body))), np.asarray(open_rgb(body)))


def test_a_jpeg_2000_of_many_pixels_is_refused_with_the_way_out(served: ModelStore) -> None:
    with served.open() as endpoint:
        reply = endpoint.ask(f"/models/{TASKS[0]}", flat("RGB", (4900, 4900), "JPEG2000"), headers=PICTURE)
        assert reply.status == 413 and "24.0 megapixels; at most 12 are allowed" in reply.document["error"]
        assert "send it as a JPEG or PNG, or smaller" in reply.document["error"]


@pytest.mark.parametrize("side, said", [(4096, 32), (64, 4000), pytest.param(8000, 32, marks=pytest.mark.slow)])
def test_a_doubtful_picture_may_not_have_more_pixels_than_it_states(side: int, said: int) -> None:
    with pytest.raises(DataError, match="more than its file states"):
        plain_picture(saved(noise((300, 200), random.Random(6)), "TIFF"), pixels=50_000)
    body = bytearray(avif(side))
    struct.pack_into(">II", body, body.index(b"ispe") + 8, said, said)
    with contextlib.suppress(DataError):  # refused, or of the size that it states
        assert upright_size(plain_picture(bytes(body), pixels=said * said)) == (said, said)


def test_a_picture_that_takes_too_long_is_ended_and_the_next_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    from regraft.media.pixels import decoding

    monkeypatch.setattr(decoding, "REQUEST", decoding.Bound(seconds=0.0001, megabytes=512, wait_s=2))
    large = saved(noise((1500, 1500), random.Random(4)), "TIFF", compression="tiff_lzw")
    with pytest.raises(cost.CostlyPicture, match="takes more than"):
        plain_picture(large)
    monkeypatch.undo()
    assert Image.open(io.BytesIO(plain_picture(large))).format == "PNG"


def test_a_picture_that_takes_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from regraft.media.pixels import decoding

    monkeypatch.setattr(decoding, "REQUEST", decoding.Bound(seconds=20, megabytes=8, wait_s=2))
    with pytest.raises(DataError):
        plain_picture(saved(Image.new("RGB", (4000, 4000)), "TIFF", compression="tiff_lzw"))


def test_scans_of_ordinary_pictures_are_within_the_bounds() -> None:
    body = saved(noise((3000, 2000), random.Random(5)), "JPEG", progressive=True)
    cost.refuse_structure(body, "it")
    cost.refuse_structure(body + b"\xff\xda" * 1000, "it")  # what follows the end is not decoded
    assert upright_size(body) == (3000, 2000)


def test_generated_pictures_are_refused_or_answered(served: ModelStore) -> None:
    draw = random.Random(14)
    with served.open() as endpoint:
        assert ask(endpoint, TASKS[0], harmless(random.Random(0))) == 200
        for number, make in enumerate((*COSTLY, *DOUBTFUL[:4])):
            assert ask(endpoint, TASKS[number % 3], make(draw)) in ANSWERED, make.__name__
        assert ask(endpoint, TASKS[0], harmless(random.Random(0))) == 200


@pytest.mark.slow
@pytest.mark.parametrize("make", DOUBTFUL, ids=lambda make: make.__name__)
def test_doubtful_pictures_are_refused_or_answered(make: Maker, served: ModelStore) -> None:
    with served.open() as endpoint:
        for number in range(8):
            assert ask(endpoint, TASKS[number % 3], make(random.Random(number))) in ANSWERED
        assert ask(endpoint, TASKS[0], harmless(random.Random(0))) == 200


class Server:
    """`regraft serve` as a process of its own, whose address space is bounded."""

    def __init__(self, store: str, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        spec = {"store": store, "port": int(self.url.rpartition(":")[2]), "device": "cpu"}
        (folder / "serve.yaml").write_text(json.dumps(spec))
        command = [sys.executable, "-m", "regraft", "serve", str(folder / "serve.yaml"), "--replicas", "0"]
        self._log = (folder / "serve.log").open("w")
        self.process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT, preexec_fn=_bounded)
        self._seen = psutil.Process(self.process.pid)
        deadline = time.monotonic() + 180
        while not self._is_ready() and time.monotonic() < deadline:
            time.sleep(0.2)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        self._log.close()

    def memory(self) -> int:
        """Return the bytes in memory, the processes that decode included."""
        found = 0
        for process in (self._seen, *self._seen.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += process.memory_info().rss
        return found

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=5)
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        return False


def _bounded() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))


class Sender:
    """A process that sends pictures, beside which this one asks for answers of a small picture and times them."""

    def __init__(self, server: Server, kind: str) -> None:
        self._server, self.kind = server, kind
        command = [sys.executable, "-m", "support.picture_sender", server.url, "14", kind]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.canary: list[float] = []
        """Seconds of each answer for the small picture."""
        self.sent: list[tuple[str, str, int, float]] = []
        self.memory = 0

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def send(self, count: int) -> None:
        """Have pictures made, and then sent."""
        assert self._asked(f"make {count}") == "made"
        watching = threading.Thread(target=self._watch, args=(ended := threading.Event(),))
        watching.start()
        try:
            self.sent += map(tuple, json.loads(self._asked(f"send {RATE}")))
        finally:
            ended.set()
            watching.join()

    def p99(self) -> float:
        return statistics.quantiles(self.canary, n=100)[98]

    def __str__(self) -> str:
        times = statistics.quantiles(self.canary, n=100)
        parts = " ".join(f"p{n} {times[n - 1] * 1e3:.1f}" for n in (50, 90, 99))
        return f"beside {len(self.sent)} {self.kind}: {parts} ms of {len(self.canary)}; {self.memory >> 20} MB"

    def _asked(self, command: str) -> str:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def _watch(self, ended: threading.Event) -> None:
        body = saved(noise((32, 32), random.Random(0)), "PNG")
        while not ended.wait(0.02):
            started = time.monotonic()
            assert post(f"{self._server.url}/models/{TASKS[0]}", body) == 200
            self.canary.append(time.monotonic() - started)
            self.memory = max(self.memory, self._server.memory())


def leave_others_alone(served: ModelStore, folder: Path, count: int, beside_s: float) -> None:
    """Send generated pictures and photos by turns, at one rate, while one small picture after another is asked for.

    99 of 100 answers for the small one take at most twice as long beside generated pictures as beside photos of 2
    megapixels, and `beside_s`. By turns, since other work on the machine delays both.
    """
    server = Server(served.store, folder)
    senders = [Sender(server, kind) for kind in ("ordinary", "generated")]
    try:
        for task in TASKS:
            assert post(f"{server.url}/models/{task}", photo(0)) == 200
        before = server.memory()
        for _ in range(0, count, TURN):
            for sender in senders:
                sender.send(TURN)
            print(*senders, sep="\n", flush=True)
        assert server.process.poll() is None
    finally:
        for sender in senders:
            sender.close()
        server.close()
    photos, strange = senders
    print(f"{before >> 20} MB before", photos, strange, sep="\n", flush=True)
    for name, path, status, seconds in strange.sent:
        assert status in ANSWERED, (name, path, status, seconds)
    assert {200, 413, 422} <= {status for _, _, status, _ in strange.sent}
    assert strange.memory - before < 500 << 20
    assert strange.p99() <= 2 * photos.p99() + beside_s


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("senders, count", [(20, 100), (200, 600)])
def test_pictures_of_many_senders_at_once_take_bounded_memory(
    senders: int, count: int, served: ModelStore, tmp_path: Path
) -> None:
    draw, server = random.Random(15), Server(served.store, tmp_path)
    pictures = [(make.__name__, make(draw)) for make in draw.choices(GENERATED, k=count)]
    ended, memory = threading.Event(), [0]

    def watch() -> None:
        while not ended.wait(0.05):
            memory[0] = max(memory[0], server.memory())

    def send(number: int) -> tuple[str, int]:
        name, body = pictures[number]
        return name, post(f"{server.url}/models/{TASKS[number % 3]}", body, timeout=120)

    try:
        for task in TASKS:
            assert post(f"{server.url}/models/{task}", photo(0)) == 200
        before, watching = server.memory(), threading.Thread(target=watch)
        watching.start()
        with ThreadPoolExecutor(senders) as threads:
            found = list(threads.map(send, range(count)))
        assert post(f"{server.url}/models/{TASKS[0]}", photo(0)) == 200
        assert server.process.poll() is None
    finally:
        ended.set()
        server.close()
    print(
        f"{senders} at once: {before >> 20} MB before, {memory[0] >> 20} MB; {Counter(status for _, status in found)}"
    )
    for name, status in found:
        assert status in (*ANSWERED, 503), (name, status)
    assert memory[0] - before < 500 << 20


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_two_hundred_generated_pictures_leave_others_alone(served: ModelStore, tmp_path: Path) -> None:
    leave_others_alone(served, tmp_path, 200, beside_s=0.05)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_two_thousand_generated_pictures_leave_others_alone(served: ModelStore, tmp_path: Path) -> None:
    leave_others_alone(served, tmp_path, 2000, beside_s=0.0)
