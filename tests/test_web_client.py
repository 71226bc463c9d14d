"""OpenAI's own client drives every feature of the server."""

import base64
import json
import struct

import openai
import pytest

from tests.web import serving

USER = [{"role": "user", "content": "A latte, please."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "order",
        "description": "Order a drink.",
        "parameters": {
            "type": "object",
            "properties": {"size": {"type": "string"}},
            "required": ["size"],
        },
    },
}


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory, tiny_tokenizer):
    with serving(tmp_path_factory.mktemp("web"), tiny_tokenizer) as running:
        yield running


@pytest.fixture
def server(shared_server):
    shared_server.fake.reset()
    return shared_server


@pytest.fixture
def client(server):
    return server.openai()


def test_models_and_adapters_are_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny", "tiny:fr"]


def test_one_model_is_found_by_its_name(client):
    assert client.models.retrieve("tiny").owned_by == "puna"


def test_a_chat_answers_with_usage_fingerprint_and_timings(client, server):
    reply = client.chat.completions.create(model="tiny", messages=USER)
    prompt = server.fake.asked[0].prompt
    assert reply.choices[0].message.content == f"tea 0 for {len(prompt)}"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.prompt_tokens == len(prompt)
    assert reply.usage.prompt_tokens_details.cached_tokens == 16
    assert reply.system_fingerprint.startswith("fp_")
    assert reply.model_extra["timings"]["prompt_per_second"] > 0
    assert reply.model_extra["context"]["kept"] == 1


def test_a_stream_says_what_the_whole_answer_says_and_ends_with_usage(client):
    whole = client.chat.completions.create(model="tiny", messages=USER, seed=1)
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=USER,
            seed=1,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert len({c.id for c in chunks}) == 1


def test_a_stream_without_include_usage_has_none(client):
    chunks = client.chat.completions.create(model="tiny", messages=USER, stream=True)
    assert all(chunk.usage is None for chunk in chunks)


def test_n_answers_come_from_one_prompt(client, server):
    reply = client.chat.completions.create(model="tiny", messages=USER, n=3)
    assert [c.message.content[:5] for c in reply.choices] == ["tea 0", "tea 1", "tea 2"]
    assert reply.usage.prompt_tokens == len(server.fake.asked[0].prompt)


def test_n_answers_stream_side_by_side(client):
    chunks = client.chat.completions.create(model="tiny", messages=USER, n=2, stream=True)
    said = {0: "", 1: ""}
    for chunk in chunks:
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
    assert said[0].startswith("tea 0") and said[1].startswith("tea 1")


def test_logprobs_have_the_tokens_of_the_answer(client):
    reply = client.chat.completions.create(
        model="tiny", messages=USER, logprobs=True, top_logprobs=2
    )
    content = reply.choices[0].logprobs.content
    data = b"".join(bytes(token.bytes) for token in content)
    assert data.decode().strip() == reply.choices[0].message.content
    assert {len(token.top_logprobs) for token in content} == {2}


def test_streamed_logprobs_are_those_of_the_whole_answer(client):
    ask = {"model": "tiny", "messages": USER, "logprobs": True}
    whole = client.chat.completions.create(**ask).choices[0].logprobs.content
    parts = []
    for chunk in client.chat.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            parts += choice.logprobs.content if choice.logprobs else []
    assert parts == whole


def test_every_sampling_field_reaches_the_worker(client, server):
    client.chat.completions.create(
        model="tiny:fr",
        messages=USER,
        max_completion_tokens=9,
        temperature=0.3,
        top_p=0.5,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        logit_bias={"5": -3},
        seed=11,
        stop=["END", "FIN"],
        user="u1",
        extra_body={
            "top_k": 4,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "stop_token_ids": [8],
            "ignore_eos": True,
            "min_tokens": 2,
            "max_seconds": 5,
        },
    )
    [asked] = server.fake.asked
    params = asked.params
    assert (asked.adapter, asked.n, asked.tenant) == ("fr", 1, "local")
    assert 0 < asked.seconds <= 5
    assert (params.max_tokens, params.temperature, params.top_p) == (9, 0.3, 0.5)
    assert (params.presence_penalty, params.frequency_penalty) == (0.1, 0.2)
    assert (params.logit_bias, params.seed, params.stop[:2]) == (((5, -3),), 11, ("END", "FIN"))
    assert (params.top_k, params.min_p, params.repetition_penalty) == (4, 0.05, 1.1)
    assert (params.stop_ids, params.ignore_eos, params.min_tokens) == ((8,), True, 2)


def test_a_json_schema_becomes_a_grammar(client, server):
    schema = {"type": "object", "properties": {"drink": {"type": "string"}}}
    form = {"type": "json_schema", "json_schema": {"name": "d", "schema": schema, "strict": True}}
    reply = client.chat.completions.create(model="tiny", messages=USER, response_format=form)
    assert json.loads(reply.choices[0].message.content) == {"drink": "tea"}
    assert json.loads(server.fake.asked[0].params.grammar.text) == schema


def test_json_object_and_regex_become_grammars(client, server):
    for form in ({"type": "json_object"}, {"type": "regex", "pattern": r"\d+-\d+-\d+"}):
        client.chat.completions.create(model="tiny", messages=USER, response_format=form)
    object, regex = (asked.params.grammar for asked in server.fake.asked)
    assert (object.kind, json.loads(object.text)) == ("json_schema", {"type": "object"})
    assert (regex.kind, regex.text) == ("regex", r"\d+-\d+-\d+")


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "order"}}]
)
def test_a_required_call_comes_as_a_call(client, choice):
    reply = client.chat.completions.create(
        model="tiny", messages=USER, tools=[TOOL], tool_choice=choice
    )
    assert reply.choices[0].finish_reason == "tool_calls"
    [call] = reply.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("order", {"size": "large"})
    assert reply.choices[0].message.content is None


def test_a_call_streams_as_a_call(client):
    chunks = client.chat.completions.create(
        model="tiny", messages=USER, tools=[TOOL], tool_choice="required", stream=True
    )
    deltas = [choice for chunk in chunks for choice in chunk.choices]
    [call] = [call for choice in deltas for call in choice.delta.tool_calls or []]
    assert call.function.name == "order"
    assert not any(choice.delta.content for choice in deltas)
    assert deltas[-1].finish_reason == "tool_calls"


def test_words_stay_words_where_functions_may_be_called(client):
    for stream in (False, True):
        reply = client.chat.completions.create(
            model="tiny", messages=USER, tools=[TOOL], stream=stream
        )
        if stream:
            said = "".join(c.choices[0].delta.content or "" for c in reply if c.choices)
        else:
            said = reply.choices[0].message.content
        assert said.startswith("tea 0 for")


def test_a_brace_that_is_no_call_is_given_out_as_text(client, server):
    server.fake.script = lambda asked, sample: '{"drink": "tea"}'
    for stream in (False, True):
        reply = client.chat.completions.create(
            model="tiny", messages=USER, tools=[TOOL], stream=stream
        )
        if stream:
            said = "".join(c.choices[0].delta.content or "" for c in reply if c.choices)
        else:
            said = reply.choices[0].message.content
        assert json.loads(said) == {"drink": "tea"}


def test_a_whole_round_of_a_tool_is_rendered_faithfully(client, server):
    first = client.chat.completions.create(
        model="tiny", messages=USER, tools=[TOOL], tool_choice="required"
    )
    message = first.choices[0].message
    call = message.tool_calls[0].id
    result = {"role": "tool", "tool_call_id": call, "content": "3.50 [paid]"}
    client.chat.completions.create(
        model="tiny", messages=[*USER, message.model_dump(), result], tools=[TOOL]
    )
    text = server.fake.tokenizer.decode(server.fake.asked[1].prompt)
    assert text.startswith("[INST] <<SYS>>\nYou can call functions.")
    assert '"name": "order", "description": "Order a drink."' in text
    assert '[/INST] {"name": "order", "arguments": {"size": "large"}}' in text
    assert '[INST] {"call": "' + call + '", "result": "3.50 [paid]"} [/INST]' in text


def test_a_final_message_is_continued(client, server):
    said = {"role": "assistant", "content": "One latte"}
    client.chat.completions.create(
        model="tiny", messages=[*USER, said], extra_body={"continue_final_message": True}
    )
    tokenizer = server.fake.tokenizer
    asked = server.fake.asked[0].prompt
    assert tokenizer.decode(asked).endswith("[/INST] One latte")
    assert asked[-1] != tokenizer.eos_id


def test_a_completion_continues_a_text(client, server):
    reply = client.completions.create(model="tiny", prompt="Good morning")
    tokenizer = server.fake.tokenizer
    assert server.fake.asked[0].prompt == tokenizer.encode("Good morning", bos=True)
    assert server.fake.asked[0].params.max_tokens == 16
    assert reply.choices[0].text.startswith("tea 0")


def test_completions_take_ids_and_several_prompts(client, server):
    reply = client.completions.create(model="tiny", prompt=[[5, 6], [7, 8, 9]], n=2)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert [len(asked.prompt) for asked in server.fake.asked] == [2, 3]
    assert reply.choices[3].text.startswith("tea 1 for 3"[:5])


def test_echo_and_logprobs_score_a_prompt(client, server):
    reply = client.completions.create(
        model="tiny", prompt="Good morning", echo=True, logprobs=1, max_tokens=0
    )
    [choice] = reply.choices
    assert choice.text == "Good morning"
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1:] == [-1.0] * (len(server.fake.asked[0].prompt) - 1)
    assert reply.usage.completion_tokens == 0


def test_a_streamed_completion_says_what_the_whole_one_says(client):
    ask = {"model": "tiny", "prompt": "tea", "echo": True, "logprobs": 0}
    whole = client.completions.create(**ask).choices[0]
    chunks = [c.choices[0] for c in client.completions.create(**ask, stream=True) if c.choices]
    assert "".join(choice.text for choice in chunks) == whole.text
    offsets = [o for choice in chunks for o in (choice.logprobs.text_offset or [])]
    assert offsets == whole.logprobs.text_offset


def test_embeddings_come_as_numbers_and_as_base64(client, server):
    reply = client.embeddings.create(model="tiny", input=["tea", "a coffee"])
    assert [len(entry.embedding) for entry in reply.data] == [2, 2]
    floats = client.embeddings.create(model="tiny", input="tea", encoding_format="float")
    raw = server.http().post(
        "/v1/embeddings", json={"model": "tiny", "input": "tea", "encoding_format": "base64"}
    )
    data = base64.b64decode(raw.json()["data"][0]["embedding"])
    assert list(struct.unpack("<2f", data)) == floats.data[0].embedding


def test_an_unknown_model_is_not_found(client):
    for name in ("other", "tiny:other", "../tiny", "tiny/../tiny"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model=name, messages=USER)
        assert caught.value.code == "model_not_found"


def test_errors_are_those_that_the_client_knows(client, server):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=USER, temperature=9)
    assert caught.value.param == "temperature"
    server.fake.failure = "internal"
    with pytest.raises(openai.InternalServerError, match="req-"):
        client.chat.completions.create(model="tiny", messages=USER)


def test_tokenize_and_detokenize_are_inverse(server):
    http, text = server.http(), "Do you have tea?"
    found = http.post("/v1/tokenize", json={"model": "tiny", "text": text}).json()
    assert found["ids"] == server.fake.tokenizer.encode(text)
    assert found["count"] == len(found["ids"]) == len(found["pieces"])
    back = http.post("/v1/detokenize", json={"model": "tiny", "ids": found["ids"]}).json()
    assert back == {"text": text}


def test_render_shows_the_prompt_that_a_chat_sends(server, client):
    messages = [{"role": "system", "content": "Be kind."}, *USER]
    shown = server.http().post("/v1/render", json={"model": "tiny", "messages": messages}).json()
    client.chat.completions.create(model="tiny", messages=messages)
    assert shown["ids"] == server.fake.asked[0].prompt
    assert shown["text"].startswith("<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>")
