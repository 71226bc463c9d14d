"""Functions that a model may call, in a format without a place for them: as text.

The system message lists the functions as JSON; the model calls one by answering with nothing but a
JSON object; its result comes back as a user's turn, as JSON too. Where a call is required a grammar
allows nothing else.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from puna.errors import InputError
from puna.text.completion import Grammar
from puna.text.patterns import EXPANDED, expanded, expanded_schema
from puna.web.failures import refused
from puna.web.schemas import JsonObject, JsonSchema, Regex, Tool, ToolCall, ToolNamed

SCHEMA_CHARACTERS = 64 << 10  # of one schema in JSON
ENUM = 2048  # values of one list of choices
REFERENCES = 256  # uses of $ref in a schema

Choice = str | ToolNamed | None

INTRO = """\
You can call functions. To call one, answer with nothing but a JSON object of this form:
{"name": "the function", "arguments": {"its": "arguments"}}
The result comes back in the next message. If no function helps, answer in words. The functions:"""


def instructions(tools: Sequence[Tool]) -> str:
    """The text of a system message that lists the functions."""
    listed = [tool.function.model_dump(exclude_none=True, exclude={"strict"}) for tool in tools]
    return f"{INTRO}\n{_json(listed)}"


def calls_text(calls: Sequence[ToolCall]) -> str:
    """Calls as the model writes them. ValueError: the arguments are no JSON object."""
    written = []
    for call in calls:
        try:
            arguments = json.loads(call.function.arguments)
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise ValueError("arguments: expected a JSON object in a text")
        written.append({"name": call.function.name, "arguments": arguments})
    return _json(written[0] if len(written) == 1 else written)


def result_text(call: str | None, text: str) -> str:
    """What a tool answered, quoted, so that it cannot pass for what somebody says."""
    return _json({"call": call, "result": text})


def grammar_of(
    tools: Sequence[Tool] | None,
    choice: Choice,
    form: "object | None",
) -> Grammar | None:
    """What the answer must match, or None. ApiError 400: choices that do not go together."""
    names = {tool.function.name for tool in tools or ()}
    if len(names) < len(tools or ()):
        raise refused("tools", "two functions have the same name")
    if choice is not None and not tools:
        raise refused("tool_choice", "there are no tools")
    for index, tool in enumerate(tools or ()):
        if tool.function.parameters is not None:
            check_schema(tool.function.parameters, f"tools[{index}].function.parameters")
    if isinstance(choice, ToolNamed) and choice.function.name not in names:
        raise refused("tool_choice", f"there is no function {choice.function.name!r}")
    if tools and (choice == "required" or isinstance(choice, ToolNamed)):
        if form is not None and getattr(form, "type", "text") != "text":
            raise refused("response_format", "cannot go with a call that is required")
        only = choice.function.name if isinstance(choice, ToolNamed) else None
        return _grammar("json_schema", _json(_calls_schema(tools, only)), "tools")
    if isinstance(form, JsonObject):
        return Grammar("json_schema", '{"type": "object"}')
    if isinstance(form, JsonSchema):
        schema = form.json_schema.schema_
        check_schema(schema, "response_format.json_schema.schema")
        return _grammar("json_schema", _json(schema), "response_format")
    if isinstance(form, Regex):
        check_counts(expanded(form.pattern), "response_format.pattern")
        return _grammar("regex", form.pattern, "response_format")
    return None


def check_counts(size: int, param: str) -> None:
    """ApiError 400: the counts of a pattern or a schema stand for so many characters: too many."""
    if size > EXPANDED:
        raise refused(param, f"its counts stand for more than {EXPANDED} characters")


def check_schema(schema: Mapping[str, Any], param: str) -> None:
    """ApiError 400: a schema that is too large, or that refers to anything outside itself."""
    size = len(_json(schema))
    if size > SCHEMA_CHARACTERS:
        raise refused(param, f"has {size} characters, expected at most {SCHEMA_CHARACTERS}")
    check_counts(expanded_schema(schema), param)
    references = 0
    waiting: list[Any] = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
            continue
        if not isinstance(value, dict):
            continue
        if isinstance(value.get("enum"), list) and len(value["enum"]) > ENUM:
            raise refused(param, f"an enum has more than {ENUM} values")
        for key in ("$ref", "$dynamicRef", "$recursiveRef"):
            target = value.get(key, "#")
            if isinstance(target, str) and not target.startswith("#"):
                raise refused(param, f"{key} leads outside of the schema; nothing is fetched")
            references += key in value
        if references > REFERENCES:
            raise refused(param, f"has more than {REFERENCES} references")
        waiting += value.values()


def read_calls(text: str, tools: Sequence[Tool], several: bool) -> list[dict[str, Any]] | None:
    """The calls that an answer consists of, in OpenAI's shape; None if it is an answer in words."""
    try:
        value = json.loads(text.strip())
    except (ValueError, RecursionError):
        return None
    calls = value if isinstance(value, list) and several else [value]
    names = {tool.function.name for tool in tools}
    if not calls or not all(_is_call(call, names) for call in calls):
        return None
    return [
        {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": call["name"], "arguments": _json(call["arguments"])},
        }
        for call in calls
    ]


def may_be_call(text: str) -> bool:
    """Whether a text that has only begun can still become calls."""
    start = text.lstrip()
    return not start or start[0] in "{["


def _grammar(kind: Literal["json_schema", "regex"], text: str, param: str) -> Grammar:
    try:
        return Grammar(kind, text)
    except InputError as error:
        raise refused(param, str(error)) from None


def _is_call(call: Any, names: set[str]) -> bool:
    return (
        isinstance(call, dict)
        and set(call) == {"name", "arguments"}
        and call["name"] in names
        and isinstance(call["arguments"], dict)
    )


def _calls_schema(tools: Sequence[Tool], only: str | None) -> dict[str, Any]:
    """The schema of one call of one of the functions."""
    forms = []
    definitions: dict[str, Any] = {}
    for index, tool in enumerate(tools):
        if only is not None and tool.function.name != only:
            continue
        parameters = tool.function.parameters or {"type": "object"}
        name = f"parameters{index}"
        definitions[name] = _moved(parameters, f"#/$defs/{name}")
        forms.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool.function.name},
                    "arguments": {"$ref": f"#/$defs/{name}"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return {"anyOf": forms, "$defs": definitions}


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references to itself lead to where it stands in another one."""
    if isinstance(schema, list):
        return [_moved(value, place) for value in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: place + value[1:] if key == "$ref" and isinstance(value, str) else _moved(value, place)
        for key, value in schema.items()
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
