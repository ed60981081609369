"""Values, models and entries: what is stored comes back as it was."""
