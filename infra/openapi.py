"""The description of the HTTP API: `make openapi` writes docs/openapi.json and its TypeScript types from the routes."""

import importlib
import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema
from starlette.routing import Route

from functions.common import errors, reasons
from functions.common.operation import Operation
from functions.common.web import EVENTS_PATH, ErrorResponse
from functions.server import FUNCTIONS
from infra.local.postgres import ROOT

DOCUMENT = ROOT / "docs" / "openapi.json"
TYPES = ROOT / "frontend" / "lib" / "openapi.d.ts"
NOT_DESCRIBED = (EVENTS_PATH, "/mcp")  # no address of a client; the Model Context Protocol describes itself

Json = dict[str, Any]

# The routes are read from the apps, which need settings of the right form. Nothing is called.
ENVIRONMENT = {
    **dict.fromkeys(("SUPABASE_URL", "ALLOWED_ORIGINS"), "https://example.invalid"),
    **dict.fromkeys(("SUPABASE_ANON_KEY", "SUPABASE_SERVICE_ROLE_KEY", "ANTHROPIC_API_KEY", "OPENAI_API_KEY"), "none"),
    "ENCRYPTION_KEY": "0" * 64,
    "STRIPE_SECRET_KEY": "sk_none",
    "STRIPE_WEBHOOK_SECRET": "whsec_none",
}
INFO = {
    "title": "CanadaGPT chat",
    "version": "1",
    "description": "Each function has an address of its own on AWS. `make run` serves all of them on one.",
}
SECURITY_SCHEMES = {
    "user": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "Supabase's access token."},
    "stripe": {"type": "apiKey", "in": "header", "name": "Stripe-Signature"},
}
PATH_PARAMETERS: Mapping[str, Json] = {
    "chat_id": {"type": "string", "minLength": 1, "maxLength": 128},
    "provider": {"type": "string", "enum": ["anthropic", "openai"]},
    "message_id": {"type": "string", "format": "uuid"},
    "token": {"type": "string"},
}
REFERENCE = "#/components/schemas/{model}"


class Schemas(GenerateJsonSchema):
    """Pydantic's schemas, with money as numbers."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        """A JSON number with exactly the digits of the Decimal."""
        bounds = {"minimum": schema.get("ge"), "maximum": schema.get("le")}
        return {"type": "number", **{name: int(bound) for name, bound in bounds.items() if bound is not None}}


class Described(NamedTuple):
    """A route and what it declares."""

    tags: list[str]
    path: str
    method: str
    route: Route
    operation: Operation


def apps() -> dict[str, FastAPI]:
    """The apps by the name of their function."""
    with mock.patch.dict(os.environ, ENVIRONMENT, clear=True):
        return {name: importlib.import_module(f"functions.{name}.handler").create() for name in FUNCTIONS}


def described() -> list[Described]:
    """All routes for clients. One that several functions have is there once."""
    found: dict[tuple[str, str], Described] = {}
    for tag, app in apps().items():
        for route in app.routes:
            assert isinstance(route, Route | APIRoute)
            if route.path in NOT_DESCRIBED:
                continue
            path = re.sub(r":\w+}", "}", route.path)
            for method in sorted((route.methods or set()) - {"HEAD"}):
                operation: Operation = route.endpoint.operation  # type: ignore[attr-defined]
                new = Described([], path, method.lower(), route, operation)
                found.setdefault((path, method), new).tags.append(tag)
    return sorted(found.values(), key=lambda one: (one.path, one.method))


def document() -> Json:
    """The OpenAPI document."""
    routes = described()
    kinds: list[Any] = [kind for one in routes for kind in (one.operation.returns, one.operation.body) if kind]
    # A body is described as it is read, a response as it is written.
    inputs: Any = {
        repr(kind): (repr(kind), "validation" if hasattr(kind, "model_fields") else "serialization", TypeAdapter(kind))
        for kind in (*kinds, ErrorResponse)
    }
    references, definitions = TypeAdapter.json_schemas(
        inputs.values(), ref_template=REFERENCE, schema_generator=Schemas
    )
    schemas = {name: schema for (name, _), schema in references.items()}
    paths: Json = {}
    for one in routes:
        paths.setdefault(one.path, {})[one.method] = _operation(one, schemas)
    defined = without_titles(definitions["$defs"])
    fields = defined["ErrorDetails"]["properties"]
    fields["code"]["enum"] = sorted(errors.BY_CODE)
    fields["reason_code"]["enum"] = sorted(reason.code for reason in reasons.REASONS if reason.error)
    components = {"schemas": defined, "securitySchemes": SECURITY_SCHEMES}
    whole = {"openapi": "3.1.0", "info": INFO, "paths": paths, "components": components}
    # Pydantic distinguishes a body and a response of the same name.
    text = json.dumps(whole).replace("-Output", "").replace("-Input", "Input")
    renamed: Json = json.loads(text)
    return renamed


def _operation(one: Described, schemas: Mapping[str, Json]) -> Json:
    operation, endpoint = one.operation, one.route.endpoint
    summary, _, description = (inspect.getdoc(endpoint) or "").partition("\n\n")
    described: Json = {"operationId": endpoint.__name__, "tags": one.tags, "summary": " ".join(summary.split())}
    if description:
        described["description"] = " ".join(description.split())
    if parameters := list(_parameters(one)):
        described["parameters"] = parameters
    if operation.body is not None:
        content = {"application/json": {"schema": schemas[repr(operation.body)]}}
        described["requestBody"] = {"required": True, "content": content}
    described["responses"] = _responses(operation, schemas)
    described["security"] = [] if operation.caller == "anyone" else [{operation.caller: []}]
    return described


def _parameters(one: Described) -> Iterator[Json]:
    for name in re.findall(r"{(\w+)}", one.path):
        yield {"name": name, "in": "path", "required": True, "schema": PATH_PARAMETERS[name]}
    if isinstance(one.route, APIRoute):
        for field in one.route.dependant.query_params:
            schema = TypeAdapter(field.field_info.rebuild_annotation()).json_schema()
            yield {"name": field.alias, "in": "query", "required": field.field_info.is_required(), "schema": schema}


def _responses(operation: Operation, schemas: Mapping[str, Json]) -> Json:
    content: Json = {}
    if operation.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    if operation.returns is not None:
        content["application/json"] = {"schema": schemas[repr(operation.returns)]}
    responses: Json = {str(operation.status): {"description": "Success", "content": content}}
    if operation.may_be_empty:
        responses["204"] = {"description": "Nothing"}
    by_status: dict[int, list[str]] = {}
    for error in _errors(operation):
        by_status.setdefault(error.status, []).append(error.code)
    for status, codes in sorted(by_status.items()):
        responses[str(status)] = {
            "description": ", ".join(dict.fromkeys(codes)),
            "content": {"application/json": {"schema": schemas[repr(ErrorResponse)]}},
        }
    return responses


def _errors(operation: Operation) -> Sequence[type[errors.AppError]]:
    found: list[type[errors.AppError]] = [*operation.errors, errors.Internal]
    if operation.caller == "user":
        found += [errors.Unauthenticated, errors.Unavailable]
    if operation.body is not None:
        found += [errors.InvalidJson, errors.InvalidRequest, errors.TooLarge]
    return found


def without_titles(value: Any) -> Any:
    """A copy without pydantic's titles, which repeat the names. A property named title is an object, not a text."""
    if isinstance(value, dict):
        return {name: without_titles(item) for name, item in value.items() if name != "title" or isinstance(item, dict)}
    return [without_titles(item) for item in value] if isinstance(value, list) else value


# TypeScript -----------------------------------------------------------------------------------------------------------


def types(openapi: Json) -> str:
    """The schemas and the routes as TypeScript declarations."""
    lines = ["// The bodies and routes of the HTTP API. Generated from docs/openapi.json by `make openapi`."]
    for name, schema in sorted(openapi["components"]["schemas"].items()):
        comment = f"/** {schema['description'].partition(chr(10))[0]} */\n" if "description" in schema else ""
        lines.append(f"{comment}export type {name} = {_type(schema)};")
    routes = [
        f"  /** {operation['summary']} */\n  {json.dumps(f'{method.upper()} {path}')}: {_type(schema, '  ')};"
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
        if (schema := _route(operation))
    ]
    comment = "/** The routes with a JSON response that users call. `on`: the functions that have the route. */"
    lines.append("\n".join([comment, "export type Routes = {", *routes, "};"]))
    return "\n\n".join(lines) + "\n"


def _route(operation: Json) -> Json | None:
    """A route as the schema of an object: its functions, path parameters, query, body and response."""
    success = next(response for status, response in operation["responses"].items() if status.startswith("2"))
    response = success["content"].get("application/json")
    if response is None or {"stripe": []} in operation["security"]:
        return None
    fields: Json = {"on": {"enum": operation["tags"]}}
    optional = []
    for place in ("path", "query"):
        parameters = [one for one in operation.get("parameters", []) if one["in"] == place]
        if parameters:
            required = [one["name"] for one in parameters if one["required"]]
            fields[place] = {"properties": {one["name"]: one["schema"] for one in parameters}, "required": required}
            optional += [] if required else [place]
    if "requestBody" in operation:
        fields["body"] = operation["requestBody"]["content"]["application/json"]["schema"]
    fields["response"] = response["schema"]
    return {"properties": fields, "required": [name for name in fields if name not in optional]}


SIMPLE = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def _type(schema: Json, indent: str = "") -> str:
    """A schema as a TypeScript type. Raises KeyError for a schema of another form."""
    match schema:
        case {"$ref": reference}:
            return str(reference).rpartition("/")[2]
        case {"enum": values}:
            return " | ".join(json.dumps(value) for value in values)
        case {"const": value}:
            return json.dumps(value)
        case {"anyOf": options} | {"oneOf": options}:
            return " | ".join(dict.fromkeys(_type(option, indent) for option in options))
        case {"allOf": [only]}:
            return _type(only, indent)
        case {"type": "array", "items": items}:
            inner = _type(items, indent)
            return f"({inner})[]" if " | " in inner else f"{inner}[]"
        case {"properties": properties, **rest}:
            required = rest.get("required", [])
            fields = [
                f"{indent}  {name}{'' if name in required else '?'}: {_type(field, indent + '  ')};"
                for name, field in properties.items()
            ]
            return "\n".join(["{", *fields, f"{indent}}}"])
        case {"type": "object", "additionalProperties": dict() as values}:
            return f"Record<string, {_type(values, indent)}>"
        case {"type": "object"}:
            return "Record<string, unknown>"
        case {"type": kind}:
            return SIMPLE[kind]
        case _:
            return "unknown"


def main() -> None:
    """Write both files."""
    openapi = document()
    DOCUMENT.write_text(json.dumps(openapi, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    TYPES.write_text(types(openapi), encoding="utf-8")
    print(f"wrote {DOCUMENT.relative_to(ROOT)} and {TYPES.relative_to(ROOT)}: {len(openapi['paths'])} paths")


if __name__ == "__main__":
    main()
