"""Pure: a document as the JSON in `Procedure.metadata`, with what of it is kept in S3."""
