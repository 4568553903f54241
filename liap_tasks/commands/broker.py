"""``celery -A ... broker``: serve the broker that the app's URL means; the options are the broker's own."""

from __future__ import annotations

import os
from typing import Any

import click
from kombu import Connection

from transports.broker.command import arguments, main
from transports.wire.address import TcpAddress, UnixAddress
from transports.wire.program import TOKEN_VARIABLE

__all__ = ["broker_command"]


@click.command(
    "broker",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.pass_context
def broker_command(context: click.Context) -> None:
    """Serve a message broker to the processes of this machine (--help for its options)."""
    given = list(context.args)
    if "--help" in given or "-h" in given:
        click.echo(arguments().format_help())
        return
    context.exit(main([*_address_options(context.obj.app), *given]))


def _address_options(app: Any) -> list[str]:
    """Return the options that make the broker serve where the app's clients look for it; options given win."""
    url = app.conf.broker_url or ""
    if not url.startswith("liap-broker"):
        return []
    with Connection(url) as connection:
        transport: Any = connection.transport
        address, _, token = transport.where()
    if isinstance(address, UnixAddress):
        return ["--socket", address.path]
    if isinstance(address, TcpAddress) and token:
        os.environ.setdefault(TOKEN_VARIABLE, token)
        return ["--socket", "none", "--tcp", str(address)]  # the user's own socket is another broker's
    return []
