"""One client for every endpoint that speaks OpenAI's chat completions: OpenAI, DeepSeek, Ollama, vLLM.

The ``openai`` SDK sends the request; what comes back is read and checked here, because servers that call
themselves compatible answer 200 with an error object, with nothing, or with a proxy's HTML page, and some
keep a connection alive with blanks for longer than any timeout between two bytes.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from lightmem_integrations.core.ports import Completion, Purpose
from lightmem_integrations.core.tokens import wordpiece_count
from lightmem_integrations.errors import ConfigError, LLMError, LLMResponseError, MissingDependencyError, shorten
from lightmem_integrations.models.llm.meter import Meter, check_purpose

if TYPE_CHECKING:
    from openai import OpenAI

__all__ = ["PRESETS", "OpenAICompatible", "Preset"]

logger = logging.getLogger(__name__)

FORMATS = ("json_schema", "json_object", "plain")
"""Ways to ask for JSON, strictest first. An endpoint that refuses one is asked in the next."""

MAX_BODY_BYTES = 8_000_000
MAX_WAIT_SECONDS = 60.0
"""A server that asks to wait for longer is not waited for."""
_EXTRACT_CHARS = 200


@dataclass(frozen=True, slots=True)
class Preset:
    """What is known about a provider.

    Attributes:
        base_url: address of its API.
        model: the default.
        key_variable: environment variable of the API key.
        key_required: False for servers that usually run without one.
        strictest: index into ``FORMATS`` of the first format that it knows.
    """

    base_url: str
    model: str
    key_variable: str
    key_required: bool = True
    strictest: int = 0


PRESETS: Mapping[str, Preset] = {
    "openai": Preset("https://api.openai.com/v1", "gpt-4o-mini", "OPENAI_API_KEY"),
    "deepseek": Preset("https://api.deepseek.com/v1", "deepseek-chat", "DEEPSEEK_API_KEY", strictest=1),
    "ollama": Preset("http://localhost:11434/v1", "qwen3:8b", "OLLAMA_API_KEY", key_required=False),
    "vllm": Preset("http://localhost:8000/v1", "Qwen/Qwen3-30B-A3B-Instruct-2507", "VLLM_API_KEY", key_required=False),
}


@dataclass(frozen=True, slots=True)
class _Form:
    """How a model wants to be asked: index into ``FORMATS``, and whether it takes a temperature."""

    format: int
    temperature: bool


@dataclass(frozen=True, slots=True)
class _Question:
    system: str
    user: str
    schema: Mapping[str, Any] | None
    purpose: Purpose


class _Failure(Exception):
    """One attempt failed: ``kind`` is in our own words, ``detail`` in the server's.

    The server's words may repeat the prompt, so that only ``kind`` is logged.

    Attributes:
        retry: whether the same model may do better.
        wait: seconds that the server asked for.
        bad_request: the server's words, where a simpler request may do better.
        answered: whether the server said 200.
    """

    def __init__(
        self,
        kind: str,
        detail: str = "",
        *,
        retry: bool = True,
        wait: float = 0.0,
        bad_request: str = "",
        answered: bool = False,
        fatal: bool = False,
    ) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.retry, self.wait, self.bad_request = retry, wait, bad_request
        self.answered, self.fatal = answered, fatal


class OpenAICompatible:
    """A language model behind an OpenAI-compatible endpoint. Thread-safe; implements ``core.ports.LLM``.

    A failed attempt is repeated after 1, 2 and 4 seconds (2^n), or after the ``Retry-After`` that the
    server asks for, up to a minute; then the fallback models are tried in order, each with its
    own attempts.

    Args:
        preset: ``openai``, ``deepseek``, ``ollama`` or ``vllm``.
        model: name of the model; None for the preset's.
        base_url: address of the API; None for the preset's.
        api_key: None reads the preset's environment variable (``OPENAI_API_KEY``, ``DEEPSEEK_API_KEY``,
            ``OLLAMA_API_KEY``, ``VLLM_API_KEY``). Never part of a ``repr``, a log line or an error.
        fallback_models: models of the same endpoint to try when the first one fails.
        timeout_seconds: of one attempt, from the request to the last byte. A server that goes silent in
            the middle of an answer can take up to twice as long.
        max_retries: after the first attempt, per model; 0 to 10.
        temperature: 0..2; None leaves it to the server. Dropped for models that refuse it.
        extra_body: further fields of the request, such as ``{"max_tokens": 2000}``.
        meter: counts tokens and holds the quota; None for one of its own.
        sleep: waits between attempts; for tests and for a shutdown that must not wait.

    Raises:
        ConfigError: a value cannot work, or no API key was found.
        MissingDependencyError: the ``openai`` package is not installed.
    """

    def __init__(
        self,
        preset: str = "openai",
        *,
        model: str | None = None,
        base_url: str | None = None,
        api_key: SecretStr | None = None,
        fallback_models: Sequence[str] = (),
        timeout_seconds: float = 60.0,
        max_retries: int = 3,
        temperature: float | None = 0.0,
        extra_body: Mapping[str, Any] | None = None,
        meter: Meter | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if preset not in PRESETS:
            raise ConfigError("llm", f"must be one of {', '.join(PRESETS)}", preset)
        known = PRESETS[preset]
        if not 0 < timeout_seconds < math.inf:
            raise ConfigError("timeout_seconds", "must be above 0 and finite", timeout_seconds)
        if not 0 <= max_retries <= 10:
            raise ConfigError("max_retries", "must lie in 0..10", max_retries)
        if temperature is not None and not 0 <= temperature <= 2:
            raise ConfigError("temperature", "must lie in 0..2, or be None", temperature)
        if importlib.util.find_spec("openai") is None:
            raise MissingDependencyError("openai", "openai", f"the language model preset {preset!r}")
        self._models = _models(model or known.model, fallback_models)
        self._base_url = _checked_url(base_url) if base_url is not None else known.base_url
        self._key = _key(api_key, known, needed=base_url is None)
        self._timeout, self._max_retries, self._temperature = timeout_seconds, max_retries, temperature
        self._extra_body = dict(extra_body or {})
        self._sleep = sleep
        self._lock = Lock()
        self._sdk: OpenAI | None = None
        self._forms = dict.fromkeys(self._models, _Form(known.strictest, temperature is not None))
        self._preset = preset
        self.meter = meter or Meter()
        self.name = f"{preset}/{self._models[0]}"

    def __repr__(self) -> str:
        return f"OpenAICompatible({self.name!r}, base_url={self._base_url!r})"

    def complete(
        self, system: str, user: str, *, schema: Mapping[str, Any] | None = None, purpose: Purpose
    ) -> Completion:
        """Answer one prompt; see ``core.ports.LLM``.

        Raises:
            UsageError: unknown purpose.
            LLMQuotaError: the daily quota is used up; no call was made.
            LLMResponseError: every model answered, and none with a usable text.
            LLMError: otherwise; says what each model did.
        """
        check_purpose(purpose)
        question = _Question(_sendable(system), _sendable(user), schema, purpose)
        told, answered = [], True
        for model in self._models:
            try:
                return self._ask(model, question)
            except _Failure as failure:
                told.append(f"{model}: {failure}")
                answered = answered and failure.answered
                if failure.fatal:
                    break
        error = LLMResponseError if answered else LLMError
        raise error(f"no answer from {self._preset} at {self._base_url}. " + "; ".join(told))

    def close(self) -> None:
        """Close the connections. The client opens new ones when it is used again."""
        with self._lock:
            sdk, self._sdk = self._sdk, None
        if sdk is not None:
            sdk.close()

    # ------------------------------------------------------------------ inside
    def _ask(self, model: str, question: _Question) -> Completion:
        for attempt in range(self._max_retries + 1):
            self.meter.check()
            try:
                return self._attempt(model, question)
            except _Failure as failure:
                tries = f" ({attempt + 1} attempts)" if attempt else ""
                if not failure.retry or attempt == self._max_retries or failure.wait > MAX_WAIT_SECONDS:
                    failure.args = (f"{failure}{tries}",)
                    raise
                seconds = max(float(2**attempt), failure.wait)
                logger.info("%s: %s; attempt %d of %d follows in %g s", model, failure.kind, attempt + 2,
                            self._max_retries + 1, seconds)  # fmt: skip
                self._sleep(seconds)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _attempt(self, model: str, question: _Question) -> Completion:
        """One attempt, in simpler and simpler forms while the server calls the request bad."""
        form = self._forms[model]
        while True:
            try:
                payload = self._post(model, question, form)
            except _Failure as failure:
                simpler = _simpler(form, failure.bad_request, question.schema is not None)
                if simpler is None:
                    raise
                logger.info(
                    "%s: %s to a request with %s; asking in a simpler way", model, failure.kind, _described(form)
                )
                form = simpler
            else:
                # Only what worked is remembered: the request may have been bad for another reason.
                self._forms[model] = form
                return self._read(payload, model, question)

    def _post(self, model: str, question: _Question, form: _Form) -> Any:
        import openai

        began = time.monotonic()
        body = bytearray()
        try:
            request = self._client().chat.completions.with_streaming_response.create(
                **self._request(model, question, form)
            )
            with request as response:
                for chunk in response.iter_bytes():
                    if body and time.monotonic() - began > self._timeout:
                        raise _Failure(f"no complete answer within {self._timeout:g} s")
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        raise _Failure(f"an answer of more than {MAX_BODY_BYTES:,} bytes", retry=False, answered=True)
        except _Failure:
            raise
        except openai.APIStatusError as error:
            raise self._refusal(error) from None  # the original carries the request and its headers
        except Exception as error:  # the SDK lets errors of its HTTP library through while a body is read
            raise self._unreached(error) from None
        return self._parsed(bytes(body))

    def _request(self, model: str, question: _Question, form: _Form) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": model,
            "messages": [
                {"role": "system", "content": question.system},
                {"role": "user", "content": question.user},
            ],
        }
        if form.temperature:
            request["temperature"] = self._temperature
        if question.schema is not None and FORMATS[form.format] == "json_schema":
            wanted = {"name": question.purpose, "schema": question.schema, "strict": True}
            request["response_format"] = {"type": "json_schema", "json_schema": wanted}
        elif question.schema is not None and FORMATS[form.format] == "json_object":
            request["response_format"] = {"type": "json_object"}
        if self._extra_body:
            request["extra_body"] = self._extra_body
        return request

    def _client(self) -> OpenAI:
        with self._lock:
            if self._sdk is None:
                from openai import OpenAI

                self._sdk = OpenAI(
                    api_key=self._key.get_secret_value(),
                    base_url=self._base_url,
                    timeout=self._timeout,
                    max_retries=0,  # ours count, log and honour the quota
                )
                if self._preset != "openai":
                    # The SDK reads OpenAI's account from the environment; other providers must not see it.
                    self._sdk.organization = self._sdk.project = None
            return self._sdk

    def _refusal(self, error: Any) -> _Failure:
        """What an HTTP status other than 200 means."""
        status: int = error.status_code
        detail = error.body.get("error", error.body) if isinstance(error.body, Mapping) else error.body
        code = str(detail.get("code") or "") if isinstance(detail, Mapping) else ""
        words = detail.get("message") if isinstance(detail, Mapping) else detail
        kind, text = f"HTTP {status}", self._extract(words if words else error.response.text)
        # llama-cpp-python's server calls a response_format that it does not know an internal error.
        if status in (400, 422) or (status == 500 and "response_format" in str(words)):
            hint = "" if code == "context_length_exceeded" else str(words or "bad request")
            return _Failure(kind, text, retry=False, bad_request=hint)
        if status == 401:
            return _Failure(kind, f"{text}. Check the API key", retry=False, fatal=True)
        if code == "insufficient_quota":
            return _Failure(kind, f"{text}. The account has no credit left", retry=False)
        if status in (408, 409, 429) or status >= 500:
            wait = _retry_after(error.response.headers)
            asked = f" (asks to wait {wait:g} s)" if wait else ""
            return _Failure(kind, f"{text}{asked}", wait=wait)
        return _Failure(kind, text, retry=False)

    def _unreached(self, error: Exception) -> _Failure:
        kind = type(error).__name__
        if "Timeout" in kind:
            return _Failure(f"no answer within {self._timeout:g} s")
        cause = error.__cause__
        detail = f": {type(cause).__name__}: {cause}" if cause is not None else f": {error}"
        return _Failure(f"the connection failed ({kind}{self._scrubbed(detail)[:_EXTRACT_CHARS]})")

    def _parsed(self, body: bytes) -> Any:
        if not body.strip():
            raise _Failure("HTTP 200 with an empty body", answered=True)
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            text = body.decode("utf-8", "replace")
            raise _Failure("HTTP 200 with something that is not JSON", self._extract(text), answered=True) from None

    def _read(self, payload: Any, model: str, question: _Question) -> Completion:
        """The text and its price, from the body of a 200."""
        if not isinstance(payload, dict):
            raise _Failure("HTTP 200 with JSON that is no completion", self._extract(payload), answered=True)
        if payload.get("error"):
            raise _Failure("HTTP 200 with an error object", self._extract(payload["error"]), answered=True)
        choice = _first(payload.get("choices"))
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else None
        usable = isinstance(text, str) and bool(text.strip())
        usage = _usage(payload.get("usage"))
        if usage is None and usable:
            usage = wordpiece_count(question.system) + wordpiece_count(question.user), wordpiece_count(str(text))
        if usage is not None:  # an answer that cannot be used was charged all the same
            self.meter.record(question.purpose, *usage)
        if not usable or usage is None:
            raise self._no_text(choice, message)
        answered_by = payload.get("model")
        return Completion(str(text), *usage, answered_by if isinstance(answered_by, str) and answered_by else model)

    def _no_text(self, choice: Mapping[str, Any], message: Any) -> _Failure:
        refusal = message.get("refusal") if isinstance(message, dict) else None
        if refusal:
            return _Failure("the model refused", self._extract(refusal), retry=False, answered=True)
        reason = choice.get("finish_reason")
        if reason == "content_filter":
            return _Failure("the provider's content filter held the answer back", retry=False, answered=True)
        return _Failure(f"HTTP 200 without a text (finish_reason {shorten(reason)})", answered=True)

    def _extract(self, value: object) -> str:
        return shorten(self._scrubbed(value if isinstance(value, str) else json.dumps(value)), _EXTRACT_CHARS)

    def _scrubbed(self, text: str) -> str:
        key = self._key.get_secret_value()
        return text.replace(key, "**********") if key != _NO_KEY else text


_NO_KEY = "none"  # the SDK insists on a key; local servers do not look at it


def _models(model: str, fallbacks: Sequence[str]) -> list[str]:
    if isinstance(fallbacks, str):
        raise ConfigError("fallback_models", "must be a list, not one string", fallbacks)
    models = list(dict.fromkeys([model, *fallbacks]))
    for name in models:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError("model", "must be a non-blank string", name)
    return models


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ConfigError("base_url", "must not hold a user name or password; use api_key", "an address with one")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("base_url", "must be an http or https address, such as http://localhost:8000/v1", url)
    return url


def _key(given: SecretStr | None, preset: Preset, *, needed: bool) -> SecretStr:
    if given is not None and not isinstance(given, SecretStr):
        raise ConfigError("api_key", "must be a pydantic SecretStr", f"a {type(given).__name__}")
    value = given.get_secret_value() if given is not None else os.environ.get(preset.key_variable, "")
    if value.strip():
        return SecretStr(value.strip())
    if preset.key_required and needed:
        raise ConfigError("api_key", f"must be given, or be in the environment variable {preset.key_variable}", None)
    return SecretStr(_NO_KEY)


def _described(form: _Form) -> str:
    return f"{FORMATS[form.format]} and {'a' if form.temperature else 'no'} temperature"


def _simpler(form: _Form, bad_request: str, has_schema: bool) -> _Form | None:
    """The next form to try after a bad request; None when there is none."""
    if not bad_request:
        return None
    if form.temperature and "temperature" in bad_request.lower():
        return replace(form, temperature=False)
    if has_schema and form.format + 1 < len(FORMATS):
        return replace(form, format=form.format + 1)
    return None


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait, from ``retry-after-ms`` or ``Retry-After`` (RFC 9110, 10.2.3); 0 where it says nothing."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        with suppress(TypeError, ValueError):
            seconds = float(headers.get(name, "")) / unit
            return max(0.0, seconds) if math.isfinite(seconds) else 0.0
    with suppress(TypeError, ValueError):
        when = parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())
    return 0.0


def _first(choices: Any) -> Mapping[str, Any]:
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}


def _usage(usage: Any) -> tuple[int, int] | None:
    """(input, output) tokens, or None where the server does not tell."""
    if not isinstance(usage, dict):
        return None
    sent, made = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return (sent, made) if isinstance(sent, int) and isinstance(made, int) and min(sent, made) >= 0 else None


def _sendable(text: str) -> str:
    """Without lone surrogates, which no JSON body can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")
