"""Procedures in Plexus: many of them read or written in one request, each answered for itself."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from plexus_tactus_cache.client import GraphQLClient, keep_payloads_out_of_the_log
from plexus_tactus_cache.envelope import parse
from plexus_tactus_cache.failures import (
    Failure,
    FailureClass,
    RequestFailed,
    classify,
    classify_error,
    graphql_errors,
)
from plexus_tactus_cache.reconcile import Base, Remote

# Subscribers get only what the mutation selects, and the dashboard drops updates without accountId (§6).
_SELECTED = (
    "id name description status featured isTemplate code category version isDefault parentProcedureId "
    "waitingOnMessageId metadata createdAt updatedAt accountId scorecardId scoreId scoreVersionId"
)
_READ = "id status waitingOnMessageId metadata updatedAt"
_CREATION_FIELDS = """attachedFiles category code createdByUserId description featured isDefault isTemplate
    parentProcedureId scoreId scoreVersionId scorecardId status version waitingOnMessageId"""
CREATION_FIELDS = frozenset(_CREATION_FIELDS.split())  # of a new record, but for the required and for our own


@dataclass(frozen=True)
class Update:
    """One procedure's part of a request: its new metadata, and the state of the record that it was made for.

    With `creation`, the other fields of the new record, there is no record yet.
    """

    procedure_id: str
    metadata: bytes  # JSON
    base: Base
    creation: dict[str, Any] | None
    status: tuple[str, str | None] | None  # None: leave the record's

    @property
    def size(self) -> int:
        """Bytes it adds to a request: JSON inside JSON, so with its quotes escaped."""
        return len(orjson.dumps(self.metadata.decode())) + len(orjson.dumps(self.creation)) + 600


class Procedures:
    """Plexus's procedures through any GraphQLClient."""

    def __init__(self, client: GraphQLClient) -> None:
        keep_payloads_out_of_the_log()
        self._client = client
        self._classify = getattr(client, "classify", classify)
        self.endpoint: str | None = getattr(client, "api_url", None)
        self.credentials: str = getattr(client, "credentials", "")

    def get(self, ids: Sequence[str]) -> dict[str, Remote | Failure | None]:
        """The records of `ids`, None for those that Plexus does not know (or not yet: reads can be stale).

        Raises RequestFailed when the whole request failed.
        """
        parameters = ", ".join(f"$i{n}: ID!" for n in range(len(ids)))
        fields = " ".join(f"p{n}: getProcedure(id: $i{n}) {{ {_READ} }}" for n in range(len(ids)))
        variables = {f"i{n}": procedure_id for n, procedure_id in enumerate(ids)}
        found = self._request(f"query Procedures({parameters}) {{ {fields} }}", variables, len(ids))
        answers: dict[str, Remote | Failure | None] = {}
        for procedure_id, answer in zip(ids, found, strict=True):
            answers[procedure_id] = _understood(_remote, answer) if isinstance(answer, dict) else answer
        return answers

    def update(self, updates: Sequence[Update]) -> dict[str, str | Failure]:
        """Write each of `updates` where the record still is what it was made for: its new `updatedAt`, or why not.

        Creating a record that exists fails as a condition does (§1).

        Raises RequestFailed when the whole request failed; then any of them may have been applied all the same,
        unless the failure says that it was not sent.
        """
        parameters: list[str] = []
        fields: list[str] = []
        variables: dict[str, Any] = {}
        for n, update in enumerate(updates):
            variables[f"i{n}"] = _input(update)
            if update.creation is not None:
                parameters.append(f"$i{n}: CreateProcedureInput!")
                fields.append(f"p{n}: createProcedure(input: $i{n}) {{ {_SELECTED} }}")
            else:
                variables[f"c{n}"] = _condition(update.base)
                parameters.append(f"$i{n}: UpdateProcedureInput!, $c{n}: ModelProcedureConditionInput!")
                fields.append(f"p{n}: updateProcedure(input: $i{n}, condition: $c{n}) {{ {_SELECTED} }}")
        query = f"mutation Push({', '.join(parameters)}) {{ {' '.join(fields)} }}"
        found = self._request(query, variables, len(updates))
        answers: dict[str, str | Failure] = {}
        for update, answer in zip(updates, found, strict=True):
            if answer is None:
                answer = Failure(FailureClass.UNKNOWN, "Plexus answered neither with the record nor with an error")
            answers[update.procedure_id] = _understood(_token, answer) if isinstance(answer, dict) else answer
        return answers

    def _request(self, query: str, variables: dict[str, Any], count: int) -> list[dict[str, Any] | Failure | None]:
        """The answers to the aliases p0, p1, ... of one request."""
        errors: list[Any] = []
        try:
            data: Any = self._client.execute(query, variables)
        except Exception as error:
            answered = graphql_errors(error)
            if answered is None or not isinstance(answered[1], dict):
                raise RequestFailed(self._classify(error)) from error
            errors, data = answered
        failures: dict[str, Failure] = {}
        for found in errors:
            path = found.get("path") if isinstance(found, dict) else None
            if not path:
                raise RequestFailed(classify_error(found))
            failures.setdefault(str(path[0]), classify_error(found))
        if not isinstance(data, dict):
            raise RequestFailed(Failure(FailureClass.OFFLINE, "the answer is not GraphQL"))
        answers: list[dict[str, Any] | Failure | None] = []
        for alias in (f"p{n}" for n in range(count)):
            answer = data.get(alias)
            answers.append(answer if isinstance(answer, dict) else failures.get(alias))
        return answers


_Answer = TypeVar("_Answer")


def _understood(read: Callable[[dict[str, Any]], _Answer], record: dict[str, Any]) -> _Answer | Failure:
    """What `read` makes of a record, or that it is none."""
    try:
        return read(record)
    except (KeyError, TypeError, ValueError):
        return Failure(FailureClass.UNKNOWN, "Plexus answered with a record that lacks what we asked for")


def _token(record: dict[str, Any]) -> str:
    updated_at: str = record["updatedAt"]
    dt.datetime.fromisoformat(updated_at)  # or it is not what we take it for
    return updated_at


def _remote(record: dict[str, Any]) -> Remote:
    return Remote(
        updated_at=_token(record),
        status=record.get("status"),
        waiting_on_message_id=record.get("waitingOnMessageId"),
        envelope=parse(record.get("metadata")),
    )


def _input(update: Update) -> dict[str, Any]:
    given: dict[str, Any] = {
        **(update.creation or {}),
        "id": update.procedure_id,
        "metadata": update.metadata.decode(),
    }
    if update.status is not None:
        given["status"], given["waitingOnMessageId"] = update.status
    return given


def _condition(base: Base) -> dict[str, Any]:
    """The record is still the base's: `eq: null` never matches, so absence has to be asked for (§2)."""
    condition: dict[str, Any] = {"updatedAt": {"eq": base.updated_at}}
    for name, value in (("status", base.digests.status), ("waitingOnMessageId", base.digests.waiting_on_message_id)):
        condition[name] = {"attributeExists": False} if value is None else {"eq": value}
    return condition
