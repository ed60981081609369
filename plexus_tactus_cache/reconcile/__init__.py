"""Pure: what to do when a document and its record in Plexus differ, and what is set aside for a person."""
