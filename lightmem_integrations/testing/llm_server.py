"""A language model server for tests: real HTTP on the loopback, OpenAI's protocol, answers from a script.

::

    with LLMServer([status(429, retry_after=1), answer('{"segments": []}')]) as server:
        llm = OpenAICompatible("vllm", base_url=server.url)

It counts calls and tokens. Nothing leaves the machine; with pytest-socket, mark such a test with
``@pytest.mark.allow_hosts(["127.0.0.1"])``.
"""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, Literal

from lightmem_integrations.core.tokens import wordpiece_count

__all__ = ["Call", "LLMServer", "Reply", "Script", "answer", "body", "fault", "note_taker", "status"]

ReplyFault = Literal["none", "hang", "drip", "reset", "cut"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server does with one request.

    Attributes:
        text: answered as a completion, with its usage; None to send ``body`` as it is.
        body: of the response, where there is no ``text``.
        status: HTTP status.
        headers: besides the usual ones.
        usage: False leaves the token counts out of a completion.
        finish_reason: of a completion.
        fault: ``hang`` sends nothing; ``drip`` sends a blank now and then, for ever; ``reset`` resets
            the connection; ``cut`` closes it in the middle of the body.
    """

    text: str | None = None
    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    usage: bool = True
    finish_reason: str = "stop"
    fault: ReplyFault = "none"


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it came, and what it got. Header names are in lower case; tokens are those charged."""

    request: Mapping[str, Any]
    headers: Mapping[str, str]
    reply: Reply
    input_tokens: int
    output_tokens: int

    @property
    def prompt(self) -> str:
        """The contents of all messages."""
        return _prompt(self.request)


Script = Iterable["Reply | str"] | Callable[[dict[str, Any]], "Reply | str"]


def answer(text: str, *, usage: bool = True, finish_reason: str = "stop") -> Reply:
    """A completion with this text."""
    return Reply(text, usage=usage, finish_reason=finish_reason)


def status(
    code: int, message: str = "scripted", *, retry_after: float | str | None = None, error_code: str = ""
) -> Reply:
    """An error in OpenAI's form, with ``Retry-After`` where asked for."""
    error = {"message": message, "type": "scripted", "code": error_code or None}
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Reply(body=json.dumps({"error": error}).encode(), status=code, headers=headers)


def body(content: bytes | str | Mapping[str, Any]) -> Reply:
    """200 with any body: b"" for an empty one, a mapping for JSON such as an error object."""
    if isinstance(content, Mapping):
        content = json.dumps(content)
    return Reply(body=content.encode() if isinstance(content, str) else content)


def fault(kind: ReplyFault) -> Reply:
    """No usable response: ``hang``, ``drip``, ``reset`` or ``cut``."""
    return Reply("cut short", fault=kind)


class LLMServer:
    """Serves ``POST /v1/chat/completions`` on a free port of 127.0.0.1. Use it as a context manager.

    Args:
        script: the replies, in order of the requests, where a string is a completion; after the last one
            the server answers 404. Or a function of the request's JSON, called from several threads.

    Attributes:
        calls: every request so far.
        released: ends every ``hang`` and ``drip`` when it is set.
        url: base URL for a client.
    """

    def __init__(self, script: Script) -> None:
        self._next = script if callable(script) else _in_order(script)
        self._lock = Lock()
        self.released = Event()
        self.calls: list[Call] = []
        self._server = _Server(self)
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), name="llm-server", daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> LLMServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def input_tokens(self) -> int:
        """Charged for prompts, in WordPiece."""
        return sum(call.input_tokens for call in self.calls)

    @property
    def output_tokens(self) -> int:
        """Charged for answers, in WordPiece."""
        return sum(call.output_tokens for call in self.calls)

    def take(self, request: dict[str, Any], headers: Mapping[str, str]) -> tuple[Reply, Call]:
        """The reply to a request, which is counted."""
        reply = self._next(request)
        reply = Reply(reply) if isinstance(reply, str) else reply
        charged = reply.text is not None and reply.fault == "none"
        tokens = (wordpiece_count(_prompt(request)), wordpiece_count(reply.text or "")) if charged else (0, 0)
        call = Call(request, headers, reply, *tokens)
        with self._lock:
            self.calls.append(call)
        return reply, call


def note_taker(request: Mapping[str, Any]) -> str:
    """A script for ``LLMServer`` that answers the prompts of ``core.prompts`` as a diligent model would.

    Extraction: every turn becomes one fact. Update: everything is kept. Summary: the notes, strung together.
    """
    text = str(request["messages"][-1]["content"])
    numbered = [(int(n), said) for n, said in re.findall(r"^\[(\d+)\] \S+ \S+ \S+ (.*)$", text, re.MULTILINE)]
    if "\nolder entry\n" in text:
        return json.dumps({"decision": "keep", "entries": [], "text": None})
    if not re.search(r"^segment \d+$", text, re.MULTILINE):
        words = " ".join(said for _, said in numbered)[:600]
        return json.dumps({"summary": words, "sources": [n for n, _ in numbered]}, ensure_ascii=False)
    segments: list[dict[str, Any]] = []
    for line in text.splitlines():
        if match := re.fullmatch(r"segment (\d+)", line):
            segments.append({"segment": int(match[1]), "summary": "", "facts": []})
        elif (match := re.match(r"\[(\d+)\] \S+ \S+ \S+ (.*)", line)) and segments:
            segments[-1]["summary"] = segments[-1]["summary"] or match[2][:200]
            segments[-1]["facts"].append(_fact(int(match[1]), match[2]))
    return json.dumps({"segments": segments}, ensure_ascii=False)


def _fact(number: int, said: str) -> dict[str, Any]:
    names = list(dict.fromkeys(re.findall(r"\b[A-Z][a-z]{2,}\b", said)))[:5]
    return {
        "event": number,
        "type": "factual",
        "text": said[:300],
        "sources": [number],
        "keywords": names,
        "entities": names,
        "importance": 0.5,
        "event_time": None,
    }


def _in_order(script: Iterable[Reply | str]) -> Callable[[dict[str, Any]], Reply | str]:
    replies, lock = iter(script), Lock()

    def following(_: dict[str, Any]) -> Reply | str:
        with lock:
            return next(replies, status(404, "the script of the test server has ended"))

    return following


def _prompt(request: Mapping[str, Any]) -> str:
    return "\n".join(str(message.get("content")) for message in request.get("messages", ()))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: LLMServer) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that give up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/v1/chat/completions":
            self._send(status(404, f"no such path: {self.path}"), b"")
            return
        request = json.loads(raw)
        owner = self.server.owner
        reply, call = owner.take(request, {name.lower(): value for name, value in self.headers.items()})
        content = _completion(reply, call) if reply.text is not None else reply.body
        if reply.fault == "hang":
            owner.released.wait(60)
        elif reply.fault == "reset":
            self._reset()
        else:
            self._send(reply, content)

    def _send(self, reply: Reply, content: bytes) -> None:
        content = content or reply.body
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.fault == "drip":
            self.end_headers()
            while not self.server.owner.released.wait(0.05):
                self.wfile.write(b" ")
            return
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if reply.fault == "cut" else content)

    def _reset(self) -> None:
        """Close with RST instead of FIN, which a linger of no time at all brings about."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # the last holder of the socket is the one that closes it
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: prompts hold the texts of conversations."""


def _completion(reply: Reply, call: Call) -> bytes:
    answer_: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": call.request.get("model"),
        "choices": [
            {
                "index": 0,
                "finish_reason": reply.finish_reason,
                "message": {"role": "assistant", "content": reply.text},
            }
        ],
    }
    if reply.usage:
        total = call.input_tokens + call.output_tokens
        counts = {"prompt_tokens": call.input_tokens, "completion_tokens": call.output_tokens, "total_tokens": total}
        answer_["usage"] = counts
    return json.dumps(answer_, ensure_ascii=False).encode()
