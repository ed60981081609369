"""The demo: a real Tactus procedure outlives an API outage and a kill -9. Run it with `python -m tools.demo`."""

PROCEDURE_ID = "demo-1"
RUN_ID = "demo-run"  # a checkpoint replays only in the run that made it
