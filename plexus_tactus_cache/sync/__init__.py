"""When documents travel to Plexus and back, and what is done with the answers."""
