"""A request's messages as a dialogue, and the dialogue as the ids of a prompt that fits.

What does not fit is an error, unless the request says that its oldest turns may be dropped; the
reply says what was kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from puna.errors import InputError
from puna.text.dialog import Dialog, Message
from puna.text.lookalikes import refuse_lookalikes
from puna.text.template import TagPolicy, encode_prompt, encode_unfinished
from puna.text.tokens import Tokenizer
from puna.web.failures import ApiError, refused
from puna.web.schemas import ChatMessage, Tool
from puna.web.tools import calls_text, instructions, result_text

Truncation = Literal["error", "drop_oldest_turns"]


@dataclass(frozen=True)
class Prompt:
    """The ids of a conversation, the most tokens its answer may have, and what was left out."""

    ids: list[int]
    max_tokens: int
    policy: Truncation
    kept: int  # messages
    dropped: int
    cut: bool = False  # whether max_tokens is less than what was asked for
    unfinished: bool = False  # whether the answer goes on with what the last message says

    @property
    def context(self) -> dict[str, str | int | bool]:
        """What the reply says about it."""
        return {
            "policy": self.policy,
            "kept": self.kept,
            "dropped": self.dropped,
            "max_tokens": self.max_tokens,
            "max_tokens_cut": self.cut,
        }


def to_dialog(messages: Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> Dialog:
    """The messages as a dialogue in which user and assistant take turns.

    Results of tools are a user's turn, calls an assistant's; the tools stand in the system message.
    ApiError 400 names the message that is out of order or empty.
    """
    turns: list[Message] = []
    for index, message in enumerate(messages):
        content = _content(message, index)
        _check_calls(messages, index)
        after_tool = index > 0 and messages[index - 1].role == "tool"
        if message.role == "tool" and after_tool:
            turns[-1] = replace(turns[-1], content=f"{turns[-1].content}\n{content}")
            continue
        if message.role in ("system", "developer"):
            expected, role = index == 0, "system"
        elif message.role == "tool":
            expected, role = index > 0 and bool(messages[index - 1].tool_calls), "user"
        else:
            before = turns[-1].role if turns else "system"
            asked = "user" if before in ("system", "assistant") else "assistant"
            expected, role = message.role == asked, message.role
            expected &= not (role == "user" and index > 0 and bool(messages[index - 1].tool_calls))
        if not expected:
            raise _out_of_order(index, message.role)
        turns.append(Message(role, content))  # type: ignore[arg-type]
    try:
        dialog = Dialog(tuple(turns))
    except InputError as error:
        raise refused("messages", str(error)) from None
    if tools:
        own = f"{dialog.system}\n\n" if dialog.system else ""
        dialog = dialog.with_system(own + instructions(tools))
    return dialog


def fit(
    dialog: Dialog,
    tokenizer: Tokenizer,
    context: int,
    asked: int | None,
    truncation: Truncation = "error",
    tags: TagPolicy = "refuse",
    unfinished: bool = False,
) -> Prompt:
    """The prompt of a dialogue with room for an answer of `asked` tokens (None: of any length).

    ApiError 400: a tag in a message, the wrong speaker at the end, or it does not fit.
    """
    if dialog.ends_with_user == unfinished:
        last = len(dialog.messages) - 1
        wanted = "assistant" if unfinished else "user, or continue_final_message"
        what = f"role is {dialog.last.role!r}, expected {wanted}"
        raise refused(f"messages[{last}].role", what)
    encode = encode_unfinished if unfinished else encode_prompt

    def ids_of(drop: int) -> list[int]:
        return encode(_without(dialog, drop), tokenizer, tags)

    try:
        if tags == "refuse":
            refuse_lookalikes(dialog, tokenizer)
        ids = ids_of(0)
        room = asked or max(context // 8, 1)
        dropped = 0
        if truncation == "drop_oldest_turns" and len(ids) + room > context:
            dropped = _fewest(dialog, lambda drop: len(ids_of(drop)) + room <= context)
            ids = ids_of(dropped)
    except InputError as error:
        raise refused("messages", str(error)) from None
    left = context - len(ids)
    if left < 1:
        raise _too_long(len(ids), context)
    if asked is not None and asked > left and truncation == "error":
        raise _no_room(len(ids), asked, context)
    most = left if asked is None else min(asked, left)
    kept = len(dialog.messages) - dropped
    cut = asked is not None and most < asked
    return Prompt(ids, most, truncation, kept, dropped, cut, unfinished)


def fit_ids(ids: list[int], context: int, vocab_size: int, asked: int, param: str) -> None:
    """Check ids that a client gave, or a text became. ApiError 400: out of range, or no room."""
    if not ids:
        raise refused(param, "has no tokens")
    if max(ids) >= vocab_size:
        raise refused(param, f"id {max(ids)} is out of range, expected below {vocab_size}")
    if len(ids) >= context:
        raise _too_long(len(ids), context, param)
    if len(ids) + asked > context:
        raise _no_room(len(ids), asked, context)


def _content(message: ChatMessage, index: int) -> str:
    """A message's text: its parts joined, its calls as the model writes them."""
    parts = message.content
    text = "".join(part.text for part in parts) if isinstance(parts, list) else parts or ""
    if message.role == "tool":
        return result_text(message.tool_call_id, text)
    if message.tool_calls:
        try:
            calls = calls_text(message.tool_calls)
        except ValueError as error:
            raise refused(f"messages[{index}].tool_calls", str(error)) from None
        return f"{text}\n{calls}" if text.strip() else calls
    if not text.strip():
        raise refused(f"messages[{index}].content", "is empty")
    return text


def _check_calls(messages: Sequence[ChatMessage], index: int) -> None:
    """Calls are an assistant's, and an answer to a call names one of the last calls."""
    message, where = messages[index], f"messages[{index}]"
    if message.tool_calls and message.role != "assistant":
        raise refused(f"{where}.tool_calls", "expected in messages of the assistant only")
    if message.role != "tool":
        if message.tool_call_id is not None:
            raise refused(f"{where}.tool_call_id", "expected in messages of a tool only")
        return
    made = next((m for m in reversed(messages[:index]) if m.role != "tool"), None)
    calls = [call.id for call in (made.tool_calls if made else None) or []]
    if message.tool_call_id not in calls:
        raise refused(f"{where}.tool_call_id", "expected the id of a call just before it")


def _out_of_order(index: int, role: str) -> ApiError:
    what = "expected [system,] user, assistant, user, ...; a tool after the calls it answers"
    return refused(f"messages[{index}].role", f"{role!r} is out of order: {what}")


def _without(dialog: Dialog, drop: int) -> Dialog:
    """The dialogue without its `drop` oldest messages, in pairs; the system message stays."""
    start = 0 if dialog.system is None else 1
    return replace(dialog, messages=dialog.messages[:start] + dialog.messages[start + drop :])


def _fewest(dialog: Dialog, fits: Callable[[int], bool]) -> int:
    """The fewest messages to drop so that it fits; all that can be dropped if it never does."""
    low, high = 1, dialog.turns - 1  # in turns
    if high < 1:
        return 0
    while low < high:
        middle = (low + high) // 2
        if fits(2 * middle):
            high = middle
        else:
            low = middle + 1
    return 2 * low


def _too_long(tokens: int, context: int, param: str = "messages") -> ApiError:
    what = f"the prompt has {tokens} tokens, the model's context {context}, the answer's among them"
    return refused(param, what, "context_length_exceeded")


def _no_room(tokens: int, asked: int, context: int) -> ApiError:
    what = (
        f"the prompt has {tokens} tokens, which leaves {context - tokens} of {context}; got {asked}"
    )
    return refused("max_tokens", what, "context_length_exceeded")
