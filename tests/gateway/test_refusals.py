"""Every refusal as the official client sees it: the right exception, what to do about it, and whether the client tries again by itself."""

from __future__ import annotations

import threading

import openai
import pytest

from kivactl.spec.gateway import Limits, Tenant
from kivactl.spec.platform import Alias, Model
from kivactl.stack.gateway.access import revocation_for
from kivactl.stack.gateway.quota import EVERY_MODEL, Reason, quota_for

pytestmark = pytest.mark.real

MESSAGES = [{"role": "user", "content": "Capital of Germany?"}]


@pytest.fixture(scope="module")
def gateway(start_gateway):
    gateway = start_gateway(
        models=(Model(name="m", source="x"), Model(name="secret", source="x"), Model(name="small", source="x", concurrency=1, queue=1)),
        aliases=(Alias(name="chat", models={"m": 1}),),
        tenants=(
            Tenant(name="police", models=("m", "chat", "small")),
            Tenant(name="tax"),
            Tenant(name="limited", requests_per_minute=3, per_model={"chat": Limits(requests_per_minute=5)}),
            Tenant(name="spent"),
        ),
        request_size="1MiB",
        request_timeout="4s",
        wait="1s",
    )
    yield gateway
    gateway.stop()


def chat(client, model="m", **stand_in):
    return client.chat.completions.create(model=model, messages=MESSAGES, extra_body={"stand_in": stand_in} if stand_in else None)


def refused(kind, gateway, client, model="m", **stand_in):
    """The exception, checked for what all of them have; also that it was asked for once."""
    gateway.asked.clear()
    with pytest.raises(kind) as caught:
        chat(client, model, **stand_in)
    error = caught.value
    assert type(error) is kind
    assert error.request_id
    assert error.body["message"]
    assert set(error.body) == {"message", "type", "param", "code"}
    assert gateway.logged(error.request_id)["status"] == error.status_code
    assert len(gateway.asked) == 1, "the client asked again"
    return error


def test_a_good_request_is_answered_by_the_official_client(gateway):
    answer = chat(gateway.client())
    assert answer.choices[0].message.content == "Berlin"
    assert gateway.logged(answer._request_id)["tenant"] == "police"


def test_a_stream_is_answered_by_the_official_client(gateway):
    stream = gateway.client().chat.completions.create(model="chat", messages=MESSAGES, stream=True, extra_body={"stand_in": {"do": "stream", "events": 5}})
    assert [chunk.choices[0].delta.content for chunk in stream] == [f"word{number} " for number in range(5)]


def test_the_official_client_lists_the_tenant_s_models(gateway):
    assert [model.id for model in gateway.client().models.list()] == ["m", "small", "chat"]
    assert [model.id for model in gateway.client("tax").models.list()] == ["m", "secret", "small", "chat"]
    assert gateway.client().models.retrieve("chat").id == "chat"
    with pytest.raises(openai.NotFoundError):
        gateway.client().models.retrieve("secret")


@pytest.mark.parametrize("token", ["sk-nothing", "a.b.c"])
def test_no_token_of_this_platform(gateway, token):
    error = refused(openai.AuthenticationError, gateway, gateway.client(token=token, retries=2))
    assert (error.status_code, error.code, error.type) == (401, "invalid_api_key", "authentication_error")


def test_an_expired_token(gateway):
    refused(openai.AuthenticationError, gateway, gateway.client(token=gateway.token(exp=1), retries=2))


def test_a_token_is_revoked_while_the_gateway_runs_and_streams_go_on(gateway):
    other, revoked = gateway.client(token=gateway.token("tax", jti="other")), gateway.client(token=gateway.token("tax", jti="stolen"), retries=2)
    stream = revoked.chat.completions.create(model="m", messages=MESSAGES, stream=True, extra_body={"stand_in": {"do": "stream", "events": 10, "gap_s": 0.1}})
    next(iter(stream))
    gateway.replace(gateway.files.revoked, revocation_for(["older", "stolen"]))

    def is_refused():
        try:
            chat(revoked)
        except openai.AuthenticationError:
            return True
        return False

    gateway.until(is_refused)
    error = refused(openai.AuthenticationError, gateway, revoked)
    assert "revoked" in str(error)
    assert len(list(stream)) == 9
    assert chat(other).choices
    gateway.replace(gateway.files.revoked, revocation_for([]))
    gateway.until(lambda: gateway.ask({"model": "m"}, tenant=None, headers=[("authorization", f"Bearer {revoked.api_key}")]).status == 200)


@pytest.mark.parametrize("model", ["secret"])
def test_a_model_that_is_not_for_this_tenant(gateway, model):
    error = refused(openai.PermissionDeniedError, gateway, gateway.client(retries=2), model)
    assert (error.status_code, error.code, error.type) == (403, "model_not_allowed", "permission_error")
    assert gateway.engines["secret-0"].received == []


def test_a_tenant_that_the_spec_no_longer_has(gateway):
    error = refused(openai.PermissionDeniedError, gateway, gateway.client("former", retries=2))
    assert (error.status_code, error.code) == (403, "unknown_tenant")


def test_an_unknown_model(gateway):
    error = refused(openai.NotFoundError, gateway, gateway.client(retries=2), "gpt-4")
    assert (error.status_code, error.code) == (404, "model_not_found")
    assert "/v1/models" in str(error)


def test_an_unknown_path(gateway):
    with pytest.raises(openai.NotFoundError) as caught:
        gateway.client(retries=2).files.list()
    assert caught.value.code == "unknown_url"


def test_no_model(gateway):
    error = refused(openai.BadRequestError, gateway, gateway.client(retries=2), None)
    assert (error.status_code, error.code) == (400, "missing_model")


def test_what_the_engine_refuses_comes_through_as_it_is(gateway):
    error = refused(openai.UnprocessableEntityError, gateway, gateway.client(), do="status", status=422)
    assert error.body == {"message": "as you wish", "type": "stand_in", "param": None, "code": 422}


def test_a_body_that_is_too_large(gateway):
    client = gateway.client(retries=2)
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x" * 2**21}])
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")


def test_requests_per_minute(gateway):
    client = gateway.client("limited")
    left = [int(client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES).headers["x-ratelimit-remaining"]) for _ in range(3)]
    assert left == [2, 1, 0]
    error = refused(openai.RateLimitError, gateway, client)
    assert (error.status_code, error.code, error.type) == (429, "rate_limit_exceeded", "rate_limit_error")
    headers = error.response.headers
    assert headers["x-ratelimit-limit"].startswith("3")
    assert headers["x-ratelimit-remaining"] == "0"
    assert 0 < int(headers["retry-after"]) == int(headers["x-ratelimit-reset"]) <= 60
    assert "x-should-retry" not in headers


def test_limits_count_for_each_model_and_each_tenant_by_itself(gateway):
    client = gateway.client("limited")
    for _ in range(5):
        chat(client, "chat")
    refused(openai.RateLimitError, gateway, client, "chat")
    for _ in range(10):
        chat(gateway.client("tax"), "chat")


def test_a_refused_request_costs_no_engine_anything(gateway):
    before = len(gateway.received)
    client = gateway.client("limited")
    for _ in range(3):
        chat(client, "secret")
    for _ in range(5):
        refused(openai.RateLimitError, gateway, client, "secret")
    assert len(gateway.received) == before + 3


def test_tokens_per_minute(gateway):
    gateway.replace(gateway.files.quota, quota_for({"spent": {"m": Reason.TOKENS}}))
    client = gateway.client("spent")
    gateway.until(lambda: gateway.ask({"model": "m"}, tenant="spent").status == 429)
    error = refused(openai.RateLimitError, gateway, client)
    assert (error.code, error.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert "tokens" in str(error)
    assert 0 < int(error.response.headers["retry-after"]) <= 60
    assert chat(client, "secret").choices, "another model is not concerned"
    assert chat(gateway.client("tax")).choices, "another tenant is not concerned"
    gateway.replace(gateway.files.quota, quota_for({}))
    gateway.until(lambda: gateway.ask({"model": "m"}, tenant="spent").status == 200)


def test_the_month_s_budget_is_not_tried_again(gateway):
    gateway.replace(gateway.files.quota, quota_for({"spent": {EVERY_MODEL: Reason.BUDGET}}))
    gateway.until(lambda: gateway.ask({"model": "m"}, tenant="spent").status == 429)
    error = refused(openai.RateLimitError, gateway, gateway.client("spent", retries=3))
    assert (error.code, error.type) == ("insufficient_quota", "insufficient_quota")
    assert error.response.headers["x-should-retry"] == "false"
    assert gateway.client("spent").models.list().data, "what costs nothing is not refused"
    gateway.replace(gateway.files.quota, quota_for({}))
    gateway.until(lambda: gateway.ask({"model": "m"}, tenant="spent").status == 200)


def test_an_engine_that_does_not_answer_in_time(gateway):
    error = refused(openai.InternalServerError, gateway, gateway.client(), do="never")
    assert (error.status_code, error.code) == (504, "timeout")
    assert 0 < int(error.response.headers["retry-after"]) <= 60


def test_a_queue_that_is_full(gateway):
    body = {"model": "small", "messages": [], "stand_in": {"do": "sleep", "for_s": 1}}
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(gateway.ask(body))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    full = [answer for answer in answers if answer.status != 200]
    assert full
    assert len(answers) - len(full) >= 2
    for answer in full:
        answer.refuses(503, "overloaded")
        assert 0 < int(answer.header("retry-after")) <= 60


def test_no_engine(gateway):
    engine = gateway.engines["m-0"]
    engine.kill()
    error = refused(openai.InternalServerError, gateway, gateway.client())
    assert (error.status_code, error.code) == (503, "unavailable")
    assert 0 < int(error.response.headers["retry-after"]) <= 60
    engine.start()
    gateway.until(lambda: gateway.serves("tax"))


def test_the_client_by_itself_outlasts_a_restart(gateway):
    engine = gateway.engines["m-0"]
    engine.kill()
    before = len(gateway.log)

    def restart():
        # Not before the client has been refused, which is to come again by itself.
        gateway.until(lambda: any(entry["status"] == 503 for entry in gateway.log[before:]))
        engine.start()

    again = threading.Thread(target=restart)
    again.start()
    gateway.asked.clear()
    answer = chat(gateway.client(retries=20, timeout_s=60))
    again.join()
    assert answer.choices[0].message.content == "Berlin"
    assert len(gateway.asked) > 1
    gateway.until(lambda: gateway.serves("tax"))


def test_an_engine_that_dies_before_it_answers(fresh_gateway):
    """The pauses between the gateway's tries are drawn by chance, so the whole may take longer than the others' time for an answer."""
    gateway = fresh_gateway(models=(Model(name="m", source="x"),), tenants=(Tenant(name="police"), Tenant(name="tax")), wait="1s")
    error = refused(openai.InternalServerError, gateway, gateway.client(), do="die")
    assert error.status_code in {502, 503}
    assert 0 < int(error.response.headers["retry-after"]) <= 60
    gateway.until(lambda: gateway.serves("tax"))


def test_a_stream_that_is_cut_is_no_short_answer(gateway):
    import httpx

    stream = gateway.client().chat.completions.create(model="m", messages=MESSAGES, stream=True, extra_body={"stand_in": {"do": "die-mid-stream", "events": 3}})
    words = []
    with pytest.raises((openai.APIError, httpx.RemoteProtocolError)):
        words.extend(chunk.choices[0].delta.content for chunk in stream)
    record = gateway.logged(stream.response.headers["x-request-id"])
    assert record["flags"] not in {"-", "DC"}
    gateway.until(lambda: gateway.serves("tax"))
