"""The commands `gpuvec cluster …`: start one, ask it how it is, make its certificates."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from gpuvec.show import print_rows

app = typer.Typer(help="Clusters on Dask: start, ask, secure.", no_args_is_help=True)
out = Console(markup=False)  # data may hold brackets

_TABLES = {"nodes": "node_lines", "collections": "collection_lines", "jobs": "job_lines"}


@app.command()
def start(
    databases: Annotated[
        list[str] | None, typer.Argument(help="held open from the start: ./shop s3://bucket/shop")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="processes; one per GPU or core if not given", min=1)
    ] = None,
    scheduler: Annotated[bool, typer.Option("--scheduler", help="run only the scheduler")] = False,
    worker: Annotated[
        str | None, typer.Option(help="run only workers of this scheduler: tcp://host:8786")
    ] = None,
    host: Annotated[
        str, typer.Option(help="address to listen on; others reach this machine by it")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="of the scheduler; 0: any", min=0)] = 8786,
    dashboard: Annotated[str, typer.Option(help="address of the HTTP pages")] = "127.0.0.1:8787",
    name: Annotated[str, typer.Option(help="of workers; keep it when they start again")] = "",
    replicas: Annotated[int, typer.Option(help="nodes that hold each segment", min=1)] = 1,
    tls: Annotated[
        Path | None, typer.Option(help="folder that `gpuvec cluster certs` made")
    ] = None,
    storage_options: Annotated[
        str | None, typer.Option(help="of the databases' store, as JSON")
    ] = None,
    retire_api: Annotated[
        bool, typer.Option("--retire-api", help="let HTTP retire workers, for the Dask operator")
    ] = False,
) -> None:
    """Run a cluster on this machine, or one part of a cluster, until it is told to end.

    `gv.connect(path, cluster="tcp://host:8786")` uses it. On several machines: `--scheduler` on
    one, `--worker tcp://one:8786` on each, with `--host` an address that the others reach.
    """
    from gpuvec.cluster import commands

    if scheduler and worker is not None:
        raise typer.BadParameter("--scheduler and --worker are two processes: start one of them")
    chosen = commands.Start(
        databases=tuple(databases or ()),
        storage_options=_json("--storage-options", storage_options),
        replicas=replicas,
        host=host,
        port=port,
        dashboard=dashboard,
        tls=tls,
        retire_api=retire_api,
    )
    if scheduler:
        commands.become(commands.scheduler_command(chosen), commands.environment(chosen))
    elif worker is not None:
        command = commands.worker_command(chosen, worker, workers, name)
        commands.become(command, commands.environment(chosen))
    else:
        commands.run_here(chosen, workers, _tell_started)


def _tell_started(cluster: Any) -> None:
    address = cluster.scheduler_address
    pages = str(cluster.dashboard_link).removesuffix("/status")
    out.print(f"{len(cluster.workers)} workers at {address}", highlight=False)
    out.print(f'  gv.connect(path, cluster="{address}")', highlight=False)
    out.print(f"  dashboard {pages}/gpuvec", highlight=False)


@app.command()
def status(
    address: Annotated[
        str, typer.Argument(help="of the scheduler, or of its HTTP pages")
    ] = "tcp://127.0.0.1:8786",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Tell what a cluster holds: nodes, collections, jobs. Exit code 1 while it is not ready."""
    from gpuvec.cluster import commands, view

    state = commands.status(address)
    if as_json:
        print(json.dumps(state, indent=2))
    else:
        out.print(view.summary(state), highlight=False)
        for title, lines in _TABLES.items():
            if found := getattr(view, lines)(state):
                out.print(f"\n[bold]{title}[/]", markup=True)
                print_rows(out, found)
    if not state.get("ready"):
        raise typer.Exit(1)


@app.command()
def retire(
    names: Annotated[
        list[str], typer.Argument(help="of nodes; `gpuvec cluster status` tells them")
    ],
    cluster: Annotated[str, typer.Option(help="the scheduler")] = "tcp://127.0.0.1:8786",
) -> None:
    """Let nodes hand over what they own and hold, then end. Reads and writes go on meanwhile."""
    from gpuvec.cluster import commands

    done = commands.retire(cluster, names)
    out.print(f"retired: {', '.join(sorted(done)) or 'none'}", highlight=False)
    if missing := sorted(set(names) - set(done)):
        out.print(f"not there: {', '.join(missing)}", highlight=False)
        raise typer.Exit(1)


@app.command()
def certs(
    folder: Annotated[Path, typer.Argument(help="a new folder; keep it secret")],
    days: Annotated[int, typer.Option(help="that they are good for", min=1)] = 365,
) -> None:
    """Make certificates for mutual TLS: of an authority, of a cluster's processes, of clients."""
    from gpuvec.cluster.certs import make_certificates

    for file in make_certificates(folder, days=days):
        out.print(str(file), highlight=False)
    out.print(
        f"\nprocesses: gpuvec cluster start --tls {folder}\n"
        f'clients:   DASK_CONFIG={folder} and cluster="tls://host:8786"',
        highlight=False,
        markup=False,
    )


def _json(option: str, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f'{option} is to be an object: {{"key": "…"}}')
    return found
