"""What a storage backend has to do for Tactus's runs to be durable, as checks that any backend can be put through.

    from plexus_tactus_cache.conformance import CHECKS, run_checks

    @contextmanager
    def mine(directory):                       # called again for a directory, it opens what was stored there
        with MyCache(directory) as cache:
            yield cache.backend()

    for outcome in run_checks(mine):
        print(outcome.check.group, outcome.check.name, outcome.problem or "passes")

With pytest: `@pytest.mark.parametrize("check", CHECKS, ids=str)` and `check.run(mine, tmp_path)`, which raises
NotConforming. `python -m plexus_tactus_cache.conformance` prints how Tactus's own backends and ours do. Needs Tactus.
"""

from plexus_tactus_cache.conformance.checks import CHECKS
from plexus_tactus_cache.conformance.harness import Check, Factory, NotConforming
from plexus_tactus_cache.conformance.runner import Outcome, run_checks

__all__ = ["CHECKS", "Check", "Factory", "NotConforming", "Outcome", "run_checks"]
