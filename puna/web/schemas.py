"""What a client may ask: every field, its type, its bounds. Nothing else is accepted.

The same records make the OpenAPI document, so that it says what is true.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

TEXT = 1 << 20  # characters of any text; the limit of the body is below that
TOKENS = 1 << 20  # ids of any list, tokens of any answer; a model's context is below that
SAMPLES, PROMPTS, EMBEDDED = 64, 32, 256

Model = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(max_length=TEXT)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Function = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Id = Annotated[int, Field(ge=0, lt=1 << 31)]
Ids = Annotated[list[Id], Field(min_length=1, max_length=TOKENS)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
IdName = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,9})$")]


Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=0, le=1_000_000)]
Repetition = Annotated[float, Field(gt=0, le=10)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
Answer = Annotated[int, Field(ge=1, le=TOKENS)]


class Strict(BaseModel):
    """A record in which every value has its type as it stands, and every field is known."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(Strict):
    """A piece of a message. There are no other kinds: no images, no files, nothing to fetch."""

    type: Literal["text"]
    text: Text


class FunctionCall(Strict):
    """What a call calls; the arguments are JSON in a text."""

    name: Function
    arguments: Text


class ToolCall(Strict):
    """A call that the assistant made."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Strict):
    """One message; those of an assistant may be as a reply holds them."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=256)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, max_length=64)] | None = None
    tool_call_id: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=2048)]


class FunctionSpec(Strict):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Function
    description: Annotated[str, StringConstraints(max_length=4096)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """Something that the model may use."""

    type: Literal["function"]
    function: FunctionSpec


class Named(Strict):
    """The name of a function."""

    name: Function


class ToolNamed(Strict):
    """The one function that is to be called."""

    type: Literal["function"]
    function: Named


Tools = Annotated[list[Tool], Field(min_length=1, max_length=64)]


class PlainText(Strict):
    """An answer without a form."""

    type: Literal["text"]


class JsonObject(Strict):
    """An answer that is a JSON object."""

    type: Literal["json_object"]


class SchemaSpec(Strict):
    """A JSON schema and its name."""

    name: Function
    description: Annotated[str, StringConstraints(max_length=4096)] | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class JsonSchema(Strict):
    """An answer that is valid under a JSON schema."""

    type: Literal["json_schema"]
    json_schema: SchemaSpec


class Regex(Strict):
    """An answer that matches a regular expression as a whole (Puna's own)."""

    type: Literal["regex"]
    pattern: Annotated[str, StringConstraints(min_length=1, max_length=4096)]


ResponseFormat = Annotated[PlainText | JsonObject | JsonSchema | Regex, Field(discriminator="type")]


class StreamOptions(Strict):
    """What a stream says besides the answer."""

    include_usage: bool = False


class Sampling(Strict):
    """How answers are drawn, and what ends them. The defaults are those of Llama 2's code."""

    model: Model
    temperature: Temperature = 0.6
    top_p: TopP = 0.9
    top_k: TopK = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0
    repetition_penalty: Repetition = 1
    presence_penalty: Penalty = 0
    frequency_penalty: Penalty = 0
    logit_bias: Annotated[dict[IdName, Bias], Field(max_length=1024)] | None = None
    seed: Seed | None = None
    n: Annotated[int, Field(ge=1, le=SAMPLES)] = 1
    stop: Stop | Annotated[list[Stop], Field(min_length=1, max_length=16)] | None = None
    stop_token_ids: Annotated[list[Id], Field(max_length=64)] | None = None
    ignore_eos: bool = False
    min_tokens: Annotated[int, Field(ge=0, le=TOKENS)] = 0
    max_seconds: Annotated[float, Field(ge=0.01, le=86400)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    response_format: ResponseFormat | None = None


class ChatRequest(Sampling):
    """A conversation that the assistant is to go on with."""

    messages: Messages
    max_tokens: Answer | None = None
    max_completion_tokens: Answer | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolNamed | None = None
    parallel_tool_calls: bool = True
    truncation: Literal["error", "drop_oldest_turns"] = "error"
    continue_final_message: bool = False


class CompletionRequest(Sampling):
    """One or several texts that are to be continued."""

    prompt: (
        Annotated[str, StringConstraints(min_length=1, max_length=TEXT)]
        | Annotated[list[Text], Field(min_length=1, max_length=PROMPTS)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=PROMPTS)]
    )
    max_tokens: Annotated[int, Field(ge=0, le=TOKENS)] = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False


class EmbeddingRequest(Strict):
    """Texts or ids of which each becomes a vector."""

    model: Model
    input: (
        Annotated[str, StringConstraints(min_length=1, max_length=TEXT)]
        | Annotated[list[Text], Field(min_length=1, max_length=EMBEDDED)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=EMBEDDED)]
    )
    encoding_format: Literal["float", "base64"] = "float"
    user: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None


class TokenizeRequest(Strict):
    """A text that is to become ids; no text becomes a control id."""

    model: Model
    text: Text
    begin: bool = False


class DetokenizeRequest(Strict):
    """Ids that are to become a text."""

    model: Model
    ids: Annotated[list[Id], Field(max_length=TOKENS)]


class RenderRequest(Strict):
    """A conversation that is to be shown as the model reads it."""

    model: Model
    messages: Messages
    tools: Tools | None = None
    max_tokens: Answer | None = None
    truncation: Literal["error", "drop_oldest_turns"] = "error"
    continue_final_message: bool = False
