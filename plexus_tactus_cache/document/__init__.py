"""Pure: a document as values, the models that callers hold and their exact encoding as JSON."""

from plexus_tactus_cache.document.models import CheckpointEntry, ProcedureMetadata, SourceLocation

# Stores of version 0.1 refer to these models by the name of this module.
__all__ = ["CheckpointEntry", "ProcedureMetadata", "SourceLocation"]
