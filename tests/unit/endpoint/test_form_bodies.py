"""Forms are read as curl, browsers, requests, .NET and Java send them, within bounds; anything else is refused."""

from __future__ import annotations

import base64
import random
from typing import Any

import pytest
import requests

from regraft.contracts import Task
from regraft.endpoint.form_fields import LARGEST_HEAD
from regraft.endpoint.http_errors import HttpError
from regraft.endpoint.request_body import ParsedRequest, parse_request
from regraft.spec.serve import LimitSpec
from unit.every.rows import TEXTS, picture, task_of

IMAGE, TEXT, PAIR = task_of("image-classification"), task_of("text-classification"), task_of("text-pair-classification")
PICTURES = [picture(number) for number in range(3)]
LIMITS = LimitSpec(items=4)
Body = tuple[bytes, str]
"""A body and its media type."""


def read(body: Body, task: Task = IMAGE) -> ParsedRequest:
    return parse_request(*body, task, LIMITS)


def refused(body: Body, task: Task = IMAGE) -> HttpError:
    with pytest.raises(HttpError) as caught:
        read(body, task)
    return caught.value


def sent(**form: Any) -> Body:
    """What the library `requests` sends."""
    prepared = requests.Request("POST", "http://localhost/", **form).prepare()
    body: Any = prepared.body
    return body if isinstance(body, bytes) else body.encode(), prepared.headers["Content-Type"]


def written(*parts: str | bytes, boundary: str = "b", content_type: str = "", end: bytes = b"\r\n") -> Body:
    """Return a form of parts that are written out, with their headers."""
    lines = [part.encode() if isinstance(part, str) else part for part in parts]
    body = b"".join(b"--" + boundary.encode() + end + line + end for line in lines)
    return body + b"--" + boundary.encode() + b"--" + end, content_type or f"multipart/form-data; boundary={boundary}"


def part(head: str, content: bytes | str, end: bytes = b"\r\n") -> bytes:
    lines = head.encode().replace(b"\n", end)
    return lines + end * 2 + (content if isinstance(content, bytes) else content.encode())


CURL = part('Content-Disposition: form-data; name="file"; filename="p 0.png"\nContent-Type: image/png', PICTURES[0])
DOTNET = part("Content-Type: image/png\nContent-Disposition: form-data; name=file; filename=p.png", PICTURES[0])
DOTNET_STAR = part(
    "Content-Disposition: form-data; name=image; filename=p.png; filename*=utf-8''p%C3%A4.png", PICTURES[0]
)
JAVA = part(
    'Content-Disposition: form-data;\n name="image"; filename="a;b\\"c.png"\nContent-Type: image/png\n'
    "Content-Transfer-Encoding: binary",
    PICTURES[0],
)
PACKED = part(
    'Content-Disposition: form-data; name="image"\nContent-Type: image/png\nContent-Transfer-Encoding: base64',
    base64.encodebytes(PICTURES[0]),
)
TYPED = part('Content-Disposition: form-data; name="image"\nContent-Type: application/octet-stream', PICTURES[0])
IN_BASE64 = part('Content-Disposition: form-data; name="image"', base64.encodebytes(PICTURES[0]))
FORMS = {
    "curl": written(CURL, boundary="------------------------d74496d66958873e"),
    "a browser": written(CURL, boundary="----WebKitFormBoundary7MA4YWxkTrZu0gW"),
    "requests": sent(files={"file": ("a.png", PICTURES[0], "image/png")}),
    "requests, a name alone": sent(files={"image": PICTURES[0]}),
    ".NET": written(DOTNET, boundary="a-b", content_type='multipart/form-data; boundary="a-b"'),
    ".NET with a name in UTF-8": written(DOTNET_STAR, content_type="Multipart/Form-Data; charset=utf-8; Boundary=b"),
    "Java": written(JAVA),
    "base64": written(PACKED),
    "a media type and no name of a file": written(TYPED),
    "base64 in a plain field": written(IN_BASE64),
    "a preamble and an epilogue": (b"this is a form\r\n" + written(CURL)[0] + b"the end", written(CURL)[1]),
    "line feeds": written(
        part('Content-Disposition: form-data; name="file"; filename="p"', PICTURES[0], b"\n"), end=b"\n"
    ),
    "urlencoded": sent(data={"image": base64.b64encode(PICTURES[0]).decode()}),
}


@pytest.mark.parametrize("client", FORMS)
def test_a_picture_in_a_form_is_read_as_the_file_itself(client: str) -> None:
    found = read(FORMS[client])
    assert (found.rows, found.single, dict(found.parameters)) == ([{"image": PICTURES[0]}], True, {})


def test_a_picture_under_curl_s_usual_media_type_is_still_the_file_itself() -> None:
    for body in (*PICTURES, b"GIF89a=" + b"\0" * 40):
        bare = "application/x-www-form-urlencoded"
        try:
            assert read((body, bare)).rows == [{"image": body}]
        except HttpError as error:
            assert "the body (image)" in error.message


def test_several_files_are_several_inputs_in_their_order() -> None:
    several = sent(
        files=[("file", ("a.png", item, "image/png")) for item in PICTURES], data={"parameters": '{"top_k": 1}'}
    )
    found = read(several)
    assert [row["image"] for row in found.rows] == PICTURES
    assert (found.single, dict(found.parameters)) == (False, {"top_k": 1})
    assert read(sent(files=[("images[]", ("a.png", PICTURES[1]))])).single is False


def test_texts_come_as_fields() -> None:
    assert read(sent(data={"text": TEXTS[0]}), TEXT).rows == [{"text": TEXTS[0]}]
    assert read(sent(files={"inputs": (None, "héllo\r\nthere")}), TEXT).rows == [{"text": "héllo\r\nthere"}]
    assert read(sent(files={"f": ("a.txt", b"\xef\xbb\xbfmarked")}), TEXT).rows == [{"text": "marked"}]
    assert read(sent(data={"text": ["a", "b"], "text_pair": ["c", "d"]}), PAIR).rows == [
        {"text": "a", "pair": "c"},
        {"text": "b", "pair": "d"},
    ]
    apache = part(
        'Content-Disposition: form-data; name="text"\nContent-Type: text/plain; charset=ISO-8859-1\n'
        "Content-Transfer-Encoding: 8bit",
        "café".encode("latin-1"),
    )
    assert read(written(apache), TEXT).rows == [{"text": "café"}]
    several = sent(files={"inputs": (None, '[{"text": "a", "pair": "b"}]')})
    assert (read(several, PAIR).rows, read(several, PAIR).single) == ([{"text": "a", "pair": "b"}], False)
    assert read(sent(data={"inputs": '{"text": "a", "pair": "b"}'}), PAIR).single


def test_curl_s_json_under_a_form_s_media_type_is_json() -> None:
    assert read((b'{"inputs": "a=b&c"}', "application/x-www-form-urlencoded"), TEXT).rows == [{"text": "a=b&c"}]


@pytest.mark.parametrize(
    "body, task, status, message",
    [
        ((b"x", "multipart/form-data"), IMAGE, 422, "the client does it"),
        ((b"x", "multipart/form-data; boundary=zz"), IMAGE, 422, "the client does it"),
        (written(CURL, content_type="multipart/mixed; boundary=b"), IMAGE, 415, "--data-binary"),
        (written(CURL, boundary="x" * 300), IMAGE, 422, "longer than 200"),
        (written(part("Content-Type: image/png", PICTURES[0])), IMAGE, 422, "has no name"),
        (written(b"\r\nhello"), IMAGE, 422, "cut off"),
        (written(*[CURL] * 9), IMAGE, 413, "more than 7 fields"),
        (written(*[CURL] * 5), IMAGE, 413, "at most 4 are allowed"),
        (
            written(part('Content-Disposition: form-data; name="f"; x="' + "y" * LARGEST_HEAD + '"', "a")),
            IMAGE,
            422,
            "large",
        ),
        (written(part('Content-Disposition: form-data; name="image"' + "\nX: y" * 20, "a")), IMAGE, 422, "21 headers"),
        (written(part('Content-Disposition: form-data; name="image"\nContent-Encoding: br', "a")), IMAGE, 415, "br"),
        (
            written(part('Content-Disposition: form-data; name="i"\nContent-Transfer-Encoding: uuencode', "a")),
            IMAGE,
            415,
            "uuencode",
        ),
        (sent(files={"image": ("a.txt", b"no picture")}), IMAGE, 422, "input 0: image is not an image"),
        (sent(files=[("f", ("a", PICTURES[0])), ("f", ("a", b"no"))]), IMAGE, 422, "input 1: image is not an image"),
        (sent(data={"model": "a"}), TEXT, 422, "is not JSON"),
        (sent(data={"text": "a", "model": "b"}), TEXT, 422, "Unknown field 'model'"),
        (sent(data={"text": ["a", "b"], "pair": "c"}), PAIR, 422, "2 of 'text', 1 of 'pair'"),
        (sent(data={"text": "a"}), PAIR, 422, "input 0: 'pair' is missing"),
        (sent(files={"text": ("a.txt", b"caf\xe9")}), TEXT, 422, "0xE9"),
        (
            written(part('Content-Disposition: form-data; name="text"\nContent-Type: text/plain; charset=x', "a")),
            TEXT,
            415,
            "charset x",
        ),
        (sent(data={"text": "a", "parameters": "{"}), TEXT, 422, "parameters is not JSON"),
        (sent(data={"text": "a", "parameters": '{"top_k": 0}'}), TEXT, 422, "from 1 on"),
        (written(), IMAGE, 422, "write a field for each of image"),
    ],
)
def test_what_cannot_be_read_is_named(body: Body, task: Task, status: int, message: str) -> None:
    error = refused(body, task)
    assert (error.status, message in error.message) == (status, True), error.message


@pytest.mark.parametrize("name", [name for name in FORMS if name != "urlencoded"])
def test_a_form_that_is_cut_off_is_refused_wherever_it_is_cut(name: str) -> None:
    body, media_type = FORMS[name]
    last = body.rfind(b"--")
    for at in random.Random(1).sample(range(last), min(60, last)):
        assert refused((body[:at], media_type)).status in (422, 415)


def test_a_damaged_form_raises_nothing_else() -> None:
    draw = random.Random(2)
    for _ in range(1500):
        body, media_type = draw.choice(list(FORMS.values()))
        changed = bytearray(body[:400] + body[-200:])
        for _ in range(draw.randrange(1, 12)):
            at = draw.randrange(len(changed))
            changed[at : at + draw.randrange(3)] = draw.choice(
                [b"\r\n", b"--", b"", b'"', b";", b"\0", draw.randbytes(3)]
            )
        try:
            read((bytes(changed), media_type), draw.choice([IMAGE, TEXT, PAIR]))
        except HttpError as error:
            assert 400 <= error.status < 500


def test_a_form_of_nothing_but_boundaries_is_searched_once() -> None:
    body = b"--b\r\nA: b\r\n\r\n" * 200_000
    assert refused((body, "multipart/form-data; boundary=b")).status == 422
