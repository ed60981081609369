"""Pure: a document as values, the models that callers hold (ours or Tactus's), their encoding, and the reports."""

from plexus_tactus_cache.document.models import CheckpointEntry, ProcedureMetadata, SourceLocation

# Stores of version 0.1 refer to these models by the name of this module.
__all__ = ["CheckpointEntry", "ProcedureMetadata", "SourceLocation"]
