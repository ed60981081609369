"""`python -m plexus_tactus_cache` is the command line."""

from plexus_tactus_cache.cli.main import main

raise SystemExit(main())
