"""Reading and running GraphQL documents the way AppSync does."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLError,
    OperationType,
    execute_sync,
    get_operation_ast,
    parse,
    validate,
    value_from_ast_untyped,
)

from plexus_tactus_cache.testing.simulator.errors import PlexusError
from plexus_tactus_cache.testing.simulator.faults import Kind
from plexus_tactus_cache.testing.simulator.schema import SCHEMA, Call


@dataclass(frozen=True)
class TopField:
    """One field at the top of a document, `alias: name(id: ...)`; without an alias the name stands for it."""

    name: str
    alias: str
    id: str | None = None


@dataclass(frozen=True)
class Document:
    """A request that could be parsed."""

    ast: DocumentNode
    invalid: tuple[GraphQLError, ...]
    variables: dict[str, Any]
    operation_name: str | None
    kind: Kind
    fields: tuple[TopField, ...]


def read_document(payload: Any) -> Document:
    """Parse the JSON body of a request; raises ValueError or GraphQLError when it is none of GraphQL."""
    if not isinstance(payload, dict) or not isinstance(payload.get("query"), str):
        raise ValueError("want a JSON object with a query")
    variables = payload.get("variables") or {}
    if not isinstance(variables, dict):
        raise ValueError("variables must be a JSON object")
    name = payload.get("operationName") or None
    ast, invalid = _parse_and_validate(payload["query"])
    operation = get_operation_ast(ast, name)
    if operation is None:
        return Document(ast, invalid, variables, name, "query", ())
    nodes = [node for node in operation.selection_set.selections if isinstance(node, FieldNode)]
    return Document(
        ast,
        invalid,
        variables,
        name,
        "mutation" if operation.operation is OperationType.MUTATION else "query",
        tuple(_top_field(node, variables) for node in nodes),
    )


def run_document(document: Document, call: Call) -> dict[str, Any]:
    """Execute a document and return the body of the answer.

    Whatever validation or the coercion of a variable refuses, it refuses before any field is executed.
    """
    if document.invalid:
        return {"data": None, "errors": [_format(error) for error in document.invalid]}
    result = execute_sync(
        SCHEMA,
        document.ast,
        context_value=call,
        variable_values=document.variables,
        operation_name=document.operation_name,
    )
    body: dict[str, Any] = {"data": result.data}
    if result.errors:
        body["errors"] = [_format(error) for error in result.errors]
    return body


@lru_cache(maxsize=128)
def _parse_and_validate(query: str) -> tuple[DocumentNode, tuple[GraphQLError, ...]]:
    # Worth remembering: clients send the same few texts again and again, and this is most of the work.
    ast = parse(query)
    return ast, tuple(validate(SCHEMA, ast))


def _format(error: GraphQLError) -> dict[str, Any]:
    # AppSync puts its additions beside `message`, not under `extensions`.
    formatted: dict[str, Any] = {
        "message": error.message,
        "locations": [{"line": at.line, "column": at.column, "sourceName": None} for at in error.locations or ()],
    }
    if error.path is not None:
        formatted["path"] = list(error.path)
    if isinstance(error.original_error, PlexusError):
        formatted |= {"data": None, "errorType": error.original_error.error_type, "errorInfo": None}
    return formatted


def _top_field(node: FieldNode, variables: dict[str, Any]) -> TopField:
    arguments = {arg.name.value: value_from_ast_untyped(arg.value, variables) for arg in node.arguments or ()}
    given = arguments.get("input")
    record_id = given.get("id") if isinstance(given, dict) else arguments.get("id")
    return TopField(
        node.name.value,
        node.alias.value if node.alias else node.name.value,
        record_id if isinstance(record_id, str) else None,
    )
