"""The GraphQL schema of Plexus over a Table."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from graphql import (
    GraphQLError,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    build_schema,
)

from plexus_tactus_cache.testing.simulator import awsjson, conditions
from plexus_tactus_cache.testing.simulator.errors import THROTTLING, VALIDATION, PlexusError
from plexus_tactus_cache.testing.simulator.paging import page, scan_key, updated_at_key
from plexus_tactus_cache.testing.simulator.table import Record, Table

_DATETIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d(:\d\d)?)")
_INDEX_KEYS = frozenset({"accountId", "updatedAt"})


@dataclass(frozen=True)
class Call:
    """What the resolvers know of the request that they serve."""

    table: Table
    executed: Callable[[str], None]
    before_mutation: Callable[[str, dict[str, Any]], None]
    admit: Callable[[], None]
    """Called under the table's lock just before a write; raises when the connection is gone."""
    stale: bool = False
    throttled: bool = False


def _make_schema() -> GraphQLSchema:
    schema = build_schema(Path(__file__).with_name("schema.graphql").read_text(encoding="utf-8"))
    _set_scalar(schema, "AWSJSON", _parse_awsjson, awsjson.dump)
    _set_scalar(schema, "AWSDateTime", _parse_datetime, str)
    for type_name, resolvers in (("Query", _QUERIES), ("Mutation", _MUTATIONS)):
        fields = cast("GraphQLObjectType", schema.get_type(type_name)).fields
        for name, resolve in resolvers.items():
            fields[name].resolve = _counted(name, resolve, mutation=type_name == "Mutation")
    return schema


def _set_scalar(schema: GraphQLSchema, name: str, parse: Callable[[Any], Any], serialise: Callable[[Any], Any]) -> None:
    scalar = cast("GraphQLScalarType", schema.get_type(name))
    # graphql-core 3.3 renamed both and keeps the old names as aliases that are bound when the type is built.
    for attribute in ("parse_value", "coerce_input_value"):
        setattr(scalar, attribute, parse)
    for attribute in ("serialize", "coerce_output_value"):
        setattr(scalar, attribute, serialise)


def _counted(name: str, resolve: Callable[..., Any], *, mutation: bool) -> Callable[..., Any]:
    def resolver(_source: object, info: Any, **args: Any) -> Any:
        call: Call = info.context
        if call.throttled:
            raise PlexusError(THROTTLING, "Rate exceeded")
        call.executed(name)
        if mutation:
            call.before_mutation(name, args)
        return resolve(call, **args)

    return resolver


def _get_procedure(call: Call, id: str) -> Record | None:
    return call.table.get(id, stale=call.stale)


def _list_procedures(call: Call, **args: Any) -> dict[str, Any]:
    return page(
        call.table.snapshot().values(),
        scan_key,
        condition=args.get("filter"),
        limit=args.get("limit"),
        next_token=args.get("nextToken"),
    )


def _list_by_account(call: Call, **args: Any) -> dict[str, Any]:
    if keys := sorted(_INDEX_KEYS.intersection(conditions.fields(args.get("filter")))):
        raise PlexusError(
            VALIDATION,
            f"Filter Expression can only contain non-primary key attributes: Primary key attribute: {', '.join(keys)}",
        )
    selected = {"accountId": {"eq": args["accountId"]}, "updatedAt": args.get("updatedAt")}
    return page(
        # A record broken by `updatedAt: null` has no place in the index.
        (r for r in call.table.snapshot().values() if "updatedAt" in r and conditions.holds(selected, r)),
        updated_at_key,
        descending=args.get("sortDirection") == "DESC",
        condition=args.get("filter"),
        limit=args.get("limit"),
        next_token=args.get("nextToken"),
    )


def _create(call: Call, input: Record, condition: Record | None = None) -> Record:
    return call.table.create(input, condition, call.admit)


def _update(call: Call, input: Record, condition: Record | None = None) -> Record:
    return call.table.update(input, condition, call.admit)


def _delete(call: Call, input: Record, condition: Record | None = None) -> Record:
    return call.table.delete(input["id"], condition, call.admit)


_QUERIES: dict[str, Callable[..., Any]] = {
    "getProcedure": _get_procedure,
    "listProcedures": _list_procedures,
    "listProcedureByAccountIdAndUpdatedAt": _list_by_account,
}
_MUTATIONS: dict[str, Callable[..., Any]] = {
    "createProcedure": _create,
    "updateProcedure": _update,
    "deleteProcedure": _delete,
}


def _parse_awsjson(value: Any) -> Any:
    if not isinstance(value, str):
        raise GraphQLError("AWSJSON must be given as a string of JSON")
    try:
        return awsjson.parse(value)
    except ValueError as error:
        raise GraphQLError(f"Unable to parse as valid JSON: {error}") from error


def _parse_datetime(value: Any) -> str:
    if not isinstance(value, str) or not _DATETIME.fullmatch(value):
        raise GraphQLError(f"Can't parse as an AWSDateTime: {str(value)[:40]!r}")
    return value


SCHEMA = _make_schema()
"""The schema; its resolvers expect a Call as the context value."""
