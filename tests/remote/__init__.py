"""Attachments, against a real S3 API over HTTP."""
