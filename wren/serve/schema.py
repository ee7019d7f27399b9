"""What clients send and get: OpenAI's chat completions and completions, as far as Wren does them.

A field that is not here is refused by name. Some of OpenAI's fields are taken and change nothing (user, metadata,
store, service_tier, parallel_tool_calls); some only with the value that changes nothing, which asking.py checks.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

MAX_TOP = 20  # tokens whose log-probabilities are told in one place
MAX_N = 128
_INT64 = 2**63

Stop = Annotated[str, Field(max_length=1000)]
TokenId = Annotated[int, Field(ge=0, lt=_INT64)]


class Asked(BaseModel):
    """A request; strict, so that "1" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Loose(BaseModel):
    """A part of a request in which clients send back what they got, and more."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class StreamOptions(Asked):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Adapt(Asked):
    """How a request is learned from. text: is learned instead of the prompt or conversation, and may be longer than the
    context."""

    lr: float | None = Field(None, gt=0, le=1, description="Learning rate of the adapter.")
    text: str | None = Field(None, min_length=1, description="What is learned, instead of the prompt or conversation.")


class Common(Asked):
    """What both kinds of request have."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=MAX_N)
    seed: int | None = Field(None, ge=-_INT64, lt=_INT64)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=1, lt=_INT64, description="Wren's own: draw among the k likeliest tokens only.")
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    adapt: bool | Adapt | None = Field(
        None,
        description="Wren's own: an adapter learns from the request's own text before it answers, and is dropped then.",
    )
    user: str | None = None
    metadata: dict[str, Any] | None = None


class TextPart(Loose):
    type: Literal["text"]
    text: str


class CalledFunction(Loose):
    name: str
    arguments: str


class ToolCall(Loose):
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Loose):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None


def _tool(value: dict[str, Any]) -> dict[str, Any]:
    """The object as the client wrote it: what a model was tuned on is its very text."""
    function = value.get("function")
    if value.get("type") != "function" or not isinstance(function, dict) or not _is_name(function.get("name")):
        raise ValueError('a tool is {"type": "function", "function": {"name": ..., "parameters": {...}}}')
    return value


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


Tool = Annotated[
    dict[str, Any],
    AfterValidator(_tool),
    WithJsonSchema(
        {
            "type": "object",
            "required": ["type", "function"],
            "properties": {
                "type": {"const": "function"},
                "function": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string", "minLength": 1}},
                },
            },
        }
    ),
]


class FunctionName(Loose):
    name: str


class NamedTool(Loose):
    type: Literal["function"]
    function: FunctionName


class ResponseFormat(Loose):
    type: str


class ChatRequest(Common):
    """POST /v1/chat/completions"""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: int | None = Field(None, ge=1, lt=_INT64)
    max_completion_tokens: int | None = Field(None, ge=1, lt=_INT64)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    modalities: list[str] | None = None
    reasoning_effort: str | None = None
    budget: int | None = Field(
        None, ge=1, lt=_INT64, description="Wren's own: tokens that may be generated in all to think about the answer."
    )
    algorithm: str | None = Field(
        None, min_length=1, max_length=200, description="Wren's own: how to think, such as vote, best_by_score or auto."
    )
    store: bool | None = None
    service_tier: str | None = None


class CompletionRequest(Common):
    """POST /v1/completions. A prompt is a text, or token ids, or a list of either."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]] | None = None
    max_tokens: int | None = Field(None, ge=0, lt=_INT64)
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    echo: bool | None = None
    best_of: int | None = Field(None, ge=1, le=MAX_N)
    suffix: str | None = None


# what is answered


class PromptDetails(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    """In tokens; cached: of the prompt, what a kept state had read before."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob] | None
    refusal: None


class AnswerCall(BaseModel):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[AnswerCall] | None = None


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class Adaptation(BaseModel):
    """What was learned for this answer alone. tokens: gone through. steps: of the adapter. trusted: the gate's verdict;
    without it the model answers as it is. rolled_back: how often the adapter was taken back since the loss or its own
    numbers were not finite. loss_before, loss_after: nats a token of the text, without the adapter and, where the gate
    trusted it, with it; each chunk was scored before it was learned."""

    tokens: int
    steps: int
    trusted: bool
    rolled_back: int
    loss_before: float | None
    loss_after: float | None


class Answer(BaseModel):
    """adapt: only where it was asked for."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage
    adapt: Adaptation | None = None


class ChatCompletion(Answer):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Answer):
    object: Literal["text_completion"]
    choices: list[TextChoice]


class ModelCard(BaseModel):
    """chat: whether the vocabulary has tokens for conversations; others are Wren's own additions too."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_len: int
    max_tokens: int
    chat: bool


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelCard]


class Health(BaseModel):
    status: Literal["ok"]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail
