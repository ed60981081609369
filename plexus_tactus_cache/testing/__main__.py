"""The command line: `python -m plexus_tactus_cache.testing --port 8080 --control-port 8081`."""

import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from plexus_tactus_cache.testing import INSTALL

try:
    import click

    from plexus_tactus_cache.testing.simulator import DEFAULT_API_KEY, FAULTS, Simulator
    from plexus_tactus_cache.testing.simulator.control import ControlServer
except ModuleNotFoundError as error:
    sys.exit(f"The simulator needs {error.name}: {INSTALL}")


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free port.")
@click.option("--data", type=click.Path(dir_okay=False, path_type=Path), help="Keep the records in this file.")
@click.option("--control-port", type=click.IntRange(0, 65535), help="Offer faults and records on this port.")
@click.option("--api-key", default=DEFAULT_API_KEY, show_default=True)
@click.option("--delay", type=click.FloatRange(min=0), default=0.0, help="Seconds that every request takes.")
@click.option("--host", default="127.0.0.1", show_default=True)
def main(port: int, data: Path | None, control_port: int | None, api_key: str, delay: float, host: str) -> None:
    """Run a Plexus simulator until Ctrl-C or SIGTERM."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with ExitStack() as stack:
        try:
            plexus = stack.enter_context(Simulator(port, api_key, data, delay, host))
            control = None if control_port is None else stack.enter_context(ControlServer(plexus, control_port, host))
        except OSError as error:
            raise click.ClickException(error.strerror or str(error)) from error
        except ValueError as error:
            raise click.ClickException(str(error)) from error
        click.echo("\n".join(_greeting(plexus, control)))  # click flushes
        stopped.wait()


def _greeting(plexus: Simulator, control: ControlServer | None) -> list[str]:
    """What a person, or the program that started us, has to know."""
    lines = [f"Plexus simulator: {plexus.url}", f"API key: {plexus.api_key}"]
    if control is None:
        lines += ["", "Faults, which --control-port offers to switch on:"]
    else:
        lines += [
            f"Control: {control.url}",
            "",
            'Faults, which a POST of {"fault": NAME} to /fail of the control switches on (GET / tells more):',
        ]
    width = max(map(len, FAULTS))
    for name, kind in FAULTS.items():
        own = f" ({', '.join(sorted(kind.own))})" if kind.own else ""
        lines.append(f"  {name:<{width}}  {kind.description}{own}")
    return lines


if __name__ == "__main__":
    main(prog_name="python -m plexus_tactus_cache.testing")
