"""The command `tickring`.

Commands import what they need when they run, so that `tickring version` and `tickring status` answer at once. An error
raised on purpose ends as one line on stderr and the exit code of its class (see `errors`).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..ringbuf.errors import TickringError
from .errors import exit_code_of
from .logs import setup
from .rights import explained

log = logging.getLogger(__name__)

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
FILE = click.Path(path_type=Path, readable=False)  # commands say themselves what they cannot read, with their code

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--log-level", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]), help="Overrides the file's [log] level."
)
@click.option("--log-format", type=click.Choice(["auto", "json", "text"]), help="Overrides the file's [log] format.")
@click.pass_context
def cli(context: click.Context, log_level: str | None, log_format: str | None) -> None:
    """A trading desk's recent state in shared memory, its history in ClickHouse."""
    context.obj = {name: value for name, value in (("level", log_level), ("format", log_format)) if value}
    setup(context.obj.get("level", "WARNING"), context.obj.get("format", "auto"))


def instance_options(command: Command) -> Command:
    """Which running instance a command is about; without any, the only one there is."""
    for option in (
        click.option("-c", "--config", "config_file", type=FILE, help="The instance of this configuration."),
        click.option("--instance", envvar="TICKRING_INSTANCE", help="Its name."),
        click.option(
            "--folder", envvar="TICKRING_FOLDER", default="/dev/shm", show_default=True, help="Where instances live."
        ),
    ):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print data as JSON.")


@cli.command()
@click.option("-c", "--config", "config_file", type=FILE, default=Path("tickring.toml"), show_default=True)
@click.option("--purge", is_flag=True, help="Remove the instance's shared memory at the end.")
@click.option("--take-over", is_flag=True, help="From the daemon that runs this instance now; `restart` starts this.")
@click.pass_obj
def run(log_options: dict[str, str], config_file: Path, purge: bool, take_over: bool) -> None:
    """Run the daemon until SIGTERM or Ctrl-C."""
    from .commands import running

    running.run(config_file, log_options, purge=purge, take_over=take_over)


@cli.command()
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="Port of the web page and the API [default: 8000, else a free one]"
)
@click.option("--symbols", type=click.IntRange(1, 1000), default=20, show_default=True, help="Simulated coins.")
@click.option("--duration", type=click.FloatRange(min=0.1), help="End by itself after so many seconds.")
@click.option("--name", default=None, help="Name of the instance [default: demo-<pid>]")
@click.pass_obj
def demo(log_options: dict[str, str], port: int | None, symbols: int, duration: float | None, name: str | None) -> None:
    """Run everything on simulated exchanges: no network, no root, nothing left behind."""
    from .commands import running

    running.demo(log_options, port=port, symbols=symbols, duration_s=duration, name=name)


@cli.command()
@click.argument("file", type=FILE)
@json_option
def check(file: Path, as_json: bool) -> None:
    """Check a configuration FILE: print all mistakes, or what would run."""
    from .commands import showing

    sys.exit(showing.check(file, as_json=as_json))


@cli.command()
@instance_options
@json_option
def status(config_file: Path | None, instance: str | None, folder: str, as_json: bool) -> None:
    """Show the processes of a running daemon."""
    from .commands import showing
    from .commands.which import find_instance

    showing.status(find_instance(config_file, instance, folder), as_json=as_json)


@cli.command()
@instance_options
def stop(config_file: Path | None, instance: str | None, folder: str) -> None:
    """Ask a running daemon to drain and end."""
    from .commands import showing
    from .commands.which import find_instance

    showing.stop(find_instance(config_file, instance, folder))


@cli.command()
@click.argument("actor", required=False)
@instance_options
def restart(actor: str | None, config_file: Path | None, instance: str | None, folder: str) -> None:
    """Restart the daemon, or stop one ACTOR in order and start it again.

    The daemon's successor reads the configuration and makes itself ready first; if it cannot, the running daemon goes
    on. Clients resume, and the feeds are away for a moment only.
    """
    from .commands import restarting, showing
    from .commands.which import find_instance

    where = find_instance(config_file, instance, folder)
    restarting.restart_daemon(where) if actor is None else showing.restart(where, actor)


@cli.command()
@click.option("--once", is_flag=True, help="Print one look and end.")
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Seconds.")
@instance_options
@json_option
def top(
    once: bool, interval: float, config_file: Path | None, instance: str | None, folder: str, as_json: bool
) -> None:  # fmt: skip
    """Watch actors, rates, lags and latencies; reads shared memory only, so it works when the daemon hangs."""
    from .commands import topping
    from .commands.which import find_folder

    topping.top(find_folder(config_file, instance, folder), interval_s=interval, once=once, as_json=as_json)


@cli.command()
@instance_options
@json_option
def reload(config_file: Path | None, instance: str | None, folder: str, as_json: bool) -> None:
    """Have a running daemon re-read its configuration and restart only the actors that it concerns."""
    from .commands import showing
    from .commands.which import find_instance

    sys.exit(showing.reload(find_instance(config_file, instance, folder), as_json=as_json))


@cli.command()
@click.option(
    "-c", "--config", "config_file", type=FILE,
    help="What is to run [default: tickring.toml, if there is one]",
)  # fmt: skip
@json_option
def doctor(config_file: Path | None, as_json: bool) -> None:
    """Look for what slows or breaks the daemon on this machine; for each thing, the command that mends it."""
    from .commands import doctoring

    usual = Path("tickring.toml")
    sys.exit(doctoring.doctor(config_file or (usual if usual.exists() else None), as_json=as_json))


@cli.group()
def storage() -> None:
    """Look after history in ClickHouse."""


@storage.command("status")
@instance_options
@json_option
def storage_status(config_file: Path | None, instance: str | None, folder: str, as_json: bool) -> None:
    """Show tables, spool, cursors and gaps of a running daemon."""
    from .commands import storing
    from .commands.which import find_folder

    sys.exit(storing.status(find_folder(config_file, instance, folder), config_file, as_json=as_json))


@cli.group()
def deadletters() -> None:
    """Look after events of the desk's topics that could not be understood."""


@deadletters.command("list")
@click.option("--topic", help="Only of this topic.")
@click.option("-n", "count", type=click.IntRange(1, 100_000), default=20, show_default=True, help="The newest so many.")
@instance_options
@json_option
def deadletters_list(
    topic: str | None, count: int, config_file: Path | None, instance: str | None, folder: str, as_json: bool
) -> None:  # fmt: skip
    """Show the newest ones, of shared memory and of history."""
    from .commands import deadletters as letters
    from .commands.which import find_folder

    where = find_folder(config_file, instance, folder)
    sys.exit(letters.show(where, config_file, topic, count, as_json=as_json))


@deadletters.command("replay")
@click.option("--topic", help="Only of this topic.")
@click.option("--reason", help="Only those that died of this.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@click.option("-c", "--config", "config_file", type=FILE, required=True, help="Names brokers and instance.")
def deadletters_replay(topic: str | None, reason: str | None, dry_run: bool, config_file: Path) -> None:
    """Produce those to their topic again that can be understood by now, each at most once."""
    from .commands import deadletters as letters
    from .commands.which import find_folder

    folder = find_folder(config_file, None, "")
    sys.exit(letters.replay(folder, config_file, topic, reason, dry_run=dry_run))


@cli.command()
@click.argument("record")
@click.argument("symbol", required=False)
@click.option(
    "-n",
    "count",
    type=click.IntRange(0, 1_000_000),
    default=10,
    show_default=True,
    help="Newest records to begin with.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with new ones.")
@instance_options
@json_option
def tail(
    record: str, symbol: str | None, count: int, follow: bool, config_file: Path | None, instance: str | None,
    folder: str, as_json: bool,
) -> None:  # fmt: skip
    """Print the newest records of a RECORD type (trade, quote, kline, position, ...), straight from shared memory."""
    from .commands import tailing
    from .commands.which import find_folder

    tailing.tail(find_folder(config_file, instance, folder), record, symbol, count, follow=follow, as_json=as_json)


@cli.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--exchange", help="Exchange of the captures [default: from the folder's name]")
@click.option("--product", help="spot or usdm [default: from the folder's name]")
@click.option("--books", is_flag=True, help="Print only the books at the end, one line each.")
def replay(files: tuple[Path, ...], exchange: str | None, product: str | None, books: bool) -> None:
    """Decode capture FILES and print every record as one JSON line."""
    from .commands import captures

    captures.replay(files, exchange, product, books=books)


@cli.command()
@click.argument("output", type=FILE)
@click.option("--product", type=click.Choice(["spot", "usdm"]), default="spot", show_default=True)
@click.option("--symbols", required=True, help="Canonical names with commas between them: BTC-USDT,ETH-USDT")
@click.option("--channels", default="trade,quote,book", show_default=True, help="trade, agg_trade, quote, book")
@click.option("--ws-url", help="Another address than the exchange's.")
@click.option("--rest-url", help="Another address than the exchange's.")
@click.option("--duration", type=click.FloatRange(min=0.1), help="End by itself after so many seconds.")
@json_option
def record(
    output: Path, product: str, symbols: str, channels: str, ws_url: str | None, rest_url: str | None,
    duration: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Record what the exchange sends into the file OUTPUT (gzip if it ends in .gz), for `replay` and the simulator."""
    from .commands import recording

    recording.record(
        output, product, symbols.split(","), channels.split(","), ws_url, rest_url, duration_s=duration, as_json=as_json
    )


@cli.command()
@click.argument("target", required=False)
@click.option("--layout", is_flag=True, help="Print the table of the stream layout only.")
@instance_options
@json_option
def inspect(
    target: str | None, layout: bool, config_file: Path | None, instance: str | None, folder: str, as_json: bool
) -> None:
    """Show layout and counters of shared memory: of TARGET (a file, folder or instance), else the running instance."""
    from .commands import showing
    from .commands.which import find_folder

    where = None if layout else showing.inspect_target(target) or find_folder(config_file, target or instance, folder)
    showing.inspect(where, as_json=as_json)


@cli.command()
@json_option
def version(as_json: bool) -> None:
    """Print the version of tickring and of what it runs on."""
    from .commands import showing

    showing.version(as_json=as_json)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    try:
        # not `cli.main`, which would turn a closed pipe into an exit code of its own
        with cli.make_context("tickring", sys.argv[1:] if arguments is None else list(arguments)) as context:
            cli.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except TickringError as error:
        print(f"tickring: {error}", file=sys.stderr)
        return exit_code_of(error)
    except PermissionError as error:
        log.debug("permission denied", exc_info=True)
        refusal = explained(error)
        print(f"tickring: {refusal}", file=sys.stderr)
        return refusal.exit_code
    except BrokenPipeError:
        # whoever read our output has seen enough; the interpreter must not complain about it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 1


if __name__ == "__main__":
    sys.exit(main())
