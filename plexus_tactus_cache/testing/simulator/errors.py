"""The errors that Plexus answers with inside HTTP 200."""

CONDITIONAL_CHECK_FAILED = "DynamoDB:ConditionalCheckFailedException"
VALIDATION = "DynamoDB:ValidationException"
THROTTLING = "ThrottlingException"


class PlexusError(Exception):
    """A field failed; `error_type` becomes `errorType` in the answer."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


class ConnectionDroppedError(Exception):
    """The connection went away before the mutation could be applied; nobody will see the answer."""


def conditional_check_failed() -> PlexusError:
    """Return the error of a condition that does not hold, or of an id that is (or is not) there."""
    return PlexusError(
        CONDITIONAL_CHECK_FAILED,
        "The conditional request failed (Service: DynamoDb, Status Code: 400, Request ID: SIMULATED)",
    )
