"""Procedures in Plexus: many of them read or written in one request, each answered for itself."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from plexus_tactus_cache.document import checks
from plexus_tactus_cache.document.plain import canonical, digest, dumps
from plexus_tactus_cache.envelope.parse import parse, same_entries
from plexus_tactus_cache.envelope.parts import (
    BOOK,
    BOOKKEEPING,
    RANGES,
    Envelope,
    lineage_of,
    manifest_of,
    pointers,
    push_id_of,
    with_parts,
)
from plexus_tactus_cache.envelope.placement import TAIL, Attachment, is_of_segments, segment_name
from plexus_tactus_cache.errors import InvalidArgument, WrongType
from plexus_tactus_cache.reconcile.lineage import Base, History
from plexus_tactus_cache.reconcile.snapshot import Remote
from plexus_tactus_cache.remote.attachments import Attachments, is_unique
from plexus_tactus_cache.remote.client import GraphQLClient
from plexus_tactus_cache.remote.discreet import discreet
from plexus_tactus_cache.remote.failures import (
    Failure,
    FailureClass,
    RequestFailed,
    classify,
    classify_error,
    graphql_errors,
)

# Subscribers get only what the mutation selects, and the dashboard drops updates without accountId (§6).
_SELECTED = (
    "id name description status featured isTemplate code category version isDefault parentProcedureId "
    "waitingOnMessageId metadata createdAt updatedAt accountId scorecardId scoreId scoreVersionId"
)
_READ = "id status waitingOnMessageId metadata updatedAt"
_CREATION_FIELDS = """attachedFiles category code createdByUserId description featured isDefault isTemplate
    parentProcedureId scoreId scoreVersionId scorecardId status version waitingOnMessageId"""
LARGEST_CREATION = 380_000  # bytes of JSON; a record has 400 KB at most (§3), with what is bookkeeping of it
CREATION_FIELDS = frozenset(_CREATION_FIELDS.split())  # of a new record, but for the required and for our own


def creation_fields(account_id: str, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The input that creates a record, without id and metadata.

    Names of `fields` are in Plexus's spelling or in Python's. Raises TypeError for what a new record does not have,
    and for a value that is not JSON; InvalidArgument for text that cannot be stored, or too much of it.
    """
    missing = [field for field, value in (("accountId", account_id), ("name", name)) if not value]
    if missing:
        raise TypeError(f"a new procedure needs {' and '.join(missing)}")
    record: dict[str, Any] = {
        "accountId": checks.text(account_id, "account_id", checks.LONGEST_STATUS),
        "name": checks.text(name, "name"),
    }
    for given, value in fields.items():
        head, *words = given.split("_")
        field = head + "".join(word.title() for word in words)
        if field not in CREATION_FIELDS:
            known = ", ".join(sorted(CREATION_FIELDS))
            raise TypeError(f"a new procedure takes no field {given!r}; it takes account_id, name, {known}")
        if field in record:
            raise InvalidArgument(given, "it is given twice")
        check = _CHECKS.get(field, _json)
        record[field] = None if value is None else check(value, given)
    if len(orjson.dumps(record)) > LARGEST_CREATION:
        raise InvalidArgument(
            "fields", f"together they have more than {LARGEST_CREATION:,} bytes, too many for a record"
        )
    return record


def _json(value: Any, field: str) -> Any:
    if isinstance(value, str):
        return checks.text(value, field, LARGEST_CREATION)
    try:
        orjson.dumps(value)
    except TypeError as error:
        raise WrongType(field, f"the fields of a new procedure have to be JSON: {error}") from error
    return value


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "status": checks.status,
    "waitingOnMessageId": checks.waiting_on_message_id,
}


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


@dataclass(frozen=True)
class Known:
    """What is known of a record before it is read, so that no attachment is fetched twice."""

    history: History


class Procedures:
    """Plexus's procedures through any GraphQLClient, with their attachments if there is access to S3."""

    def __init__(self, client: GraphQLClient, attachments: Attachments | None = None) -> None:
        self._client = client
        self.attachments = attachments
        self._classify = getattr(client, "classify", classify)
        self.endpoint: str | None = getattr(client, "api_url", None)
        self.credentials: str = getattr(client, "credentials", "")

    def get(self, ids: Sequence[str], known: Mapping[str, Known] | None = None) -> dict[str, Remote | Failure | None]:
        """The records of `ids`, None for those that Plexus does not know (or not yet: reads can be stale).

        Raises RequestFailed when the whole request failed.
        """
        answers: dict[str, Remote | Failure | None] = {}
        for procedure_id, answer in self._read(ids, _READ).items():
            before = (known or {}).get(procedure_id)
            answers[procedure_id] = (
                _understood(lambda record, before=before: self._remote(record, before), answer)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                if isinstance(answer, dict)
                else answer
            )
        return answers

    def tokens(self, ids: Sequence[str]) -> dict[str, str | Failure | None]:
        """When the records of `ids` were last changed, as `Remote.updated_at`; None for one that Plexus does not know.

        Raises RequestFailed.
        """
        answers = self._read(ids, "id updatedAt")
        return {one: _understood(_token, found) if isinstance(found, dict) else found for one, found in answers.items()}

    def metadata(self, procedure_id: str) -> str:
        """The metadata of a record as text, empty where there is none. Raises RequestFailed."""
        answer = self._read([procedure_id], "id metadata")[procedure_id]
        if isinstance(answer, Failure):
            raise RequestFailed(answer)
        found = None if answer is None else answer.get("metadata")
        return found if isinstance(found, str) else dumps(found).decode()

    def _read(self, ids: Sequence[str], fields: str) -> dict[str, dict[str, Any] | Failure | None]:
        parameters = ", ".join(f"$i{n}: ID!" for n in range(len(ids)))
        selected = " ".join(f"p{n}: getProcedure(id: $i{n}) {{ {fields} }}" for n in range(len(ids)))
        variables = {f"i{n}": procedure_id for n, procedure_id in enumerate(ids)}
        found = self._request(f"query Procedures({parameters}) {{ {selected} }}", variables, len(ids))
        return dict(zip(ids, found, strict=True))

    def _remote(self, record: dict[str, Any], known: Known | None) -> Remote:
        """Raises RequestFailed when S3 is out of reach; a part that is not there is a problem of the record."""
        metadata = record.get("metadata")
        if isinstance(metadata, str):
            try:
                metadata = orjson.loads(metadata)
            except ValueError:
                pass  # `parse` says so
        fetched = _Fetched(metadata) if self.attachments is None else self._fetch(self.attachments, metadata, known)
        return Remote(
            updated_at=_token(record),
            status=record.get("status"),
            waiting_on_message_id=record.get("waitingOnMessageId"),
            envelope=parse(fetched.metadata) if fetched.problem is None else Envelope(problem=fetched.problem),
            attachments=fetched.attachments,
            over=fetched.over,
            unchanged=frozenset(fetched.unchanged),
            relative_to=fetched.relative_to,
        )

    def _fetch(self, attachments: Attachments, metadata: Any, known: Known | None) -> _Fetched:
        """The metadata with the parts that are in S3, but for those that are known to be as they were."""
        found = pointers(metadata)
        if not found:
            return _Fetched(metadata)
        result = _Fetched(metadata)
        before: Mapping[str, Attachment] = {}
        if known is not None:
            base = known.history.base_of(lineage_of(metadata), push_id_of(metadata)).base
            if base is not None:
                result.relative_to, before = base.id, base.attachments
        name = ""
        try:
            for name, key in found.items():
                old = before.get(name)
                # Keys of ours are never written twice; others may be, before their record is (§6).
                if old is not None and old.key == key and (not old.etag or attachments.etag(key) == old.etag):
                    result.unchanged.add(name)
                    result.attachments[name] = old
            manifest = manifest_of(metadata)
            if manifest is not None:
                result.add_manifest(manifest, before)
            if result.unchanged != found.keys():
                result.unchanged.discard(BOOK)  # what changed may need its notes
            parts: dict[str, Any] = {name: {} for name in result.unchanged}
            for name in found.keys() - result.unchanged:
                if name == "checkpoints" and manifest is not None and manifest["pointer"] == found[name]:
                    parts[name] = {}  # whoever reads segments needs no copy of them
                    result.attachments[name] = Attachment(found[name], metadata[BOOKKEEPING]["digests"][name])
                    continue
                parts[name], result.attachments[name] = self._object(attachments, found[name])
            if manifest is not None and "checkpoints" not in result.unchanged:
                name = "the log"
                ranges = []
                for key, start, end in manifest["segments"]:
                    found_range, result.attachments[segment_name(start, end)] = self._object(attachments, key)
                    ranges.append(found_range)
                ranges.append(manifest["tail"])
                if manifest["pointer"] == found.get("checkpoints") or same_entries(
                    parts["checkpoints"], ranges, manifest["over"]
                ):
                    parts[RANGES] = ranges
                else:  # a reset: the segments are of a log that is no more
                    result.forget_manifest()
        except RequestFailed as error:
            if error.failure.kind is not FailureClass.REFUSED:
                raise
            return _Fetched(metadata, problem=f"{name} is kept in S3: {error.failure.message}")
        except (ValueError, TypeError, KeyError):
            return _Fetched(metadata, problem=f"{name} is kept in S3, and what is there is not what should be")
        result.metadata = with_parts(metadata, parts)
        return result

    @staticmethod
    def _object(attachments: Attachments, key: str) -> tuple[dict[str, Any], Attachment]:
        """One JSON object from S3. Raises RequestFailed, TypeError, ValueError."""
        body, etag = attachments.get(key)
        found = canonical(orjson.loads(body))
        if not isinstance(found, dict):
            raise TypeError("not an object")
        return found, Attachment(key, digest(found), "" if is_unique(key) else etag)

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
            with discreet("gql"):
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


@dataclass
class _Fetched:
    """Metadata with what was fetched of it."""

    metadata: Any
    attachments: dict[str, Attachment] = field(default_factory=dict)
    unchanged: set[str] = field(default_factory=set)
    relative_to: str | None = None
    problem: str | None = None
    over: int = 0

    def add_manifest(self, manifest: dict[str, Any], before: Mapping[str, Attachment]) -> None:
        """Note the segments of a log; it is unchanged only if all of them are."""
        found = {segment_name(start, end): Attachment(key, "") for key, start, end in manifest["segments"]}
        found[TAIL] = Attachment("", digest(canonical(manifest["tail"])))
        known = {name: one for name, one in before.items() if is_of_segments(name)}
        if {name: one.key or one.digest for name, one in found.items()} != {
            name: one.key or one.digest for name, one in known.items()
        }:
            self.unchanged.discard("checkpoints")
        self.attachments |= {name: known.get(name, one) if name != TAIL else one for name, one in found.items()}
        self.over = manifest["over"]

    def forget_manifest(self) -> None:
        self.attachments = {name: one for name, one in self.attachments.items() if not is_of_segments(name)}
        self.over = 0


_Answer = TypeVar("_Answer")


def _understood(read: Callable[[dict[str, Any]], _Answer], record: dict[str, Any]) -> _Answer | Failure:
    """What `read` makes of a record, or that it is none."""
    try:
        return read(record)
    except RequestFailed as error:
        return error.failure
    except (KeyError, TypeError, ValueError):
        return Failure(FailureClass.UNKNOWN, "Plexus answered with a record that lacks what we asked for")


def _token(record: dict[str, Any]) -> str:
    updated_at: str = record["updatedAt"]
    dt.datetime.fromisoformat(updated_at)  # or it is not what we take it for
    return updated_at


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
