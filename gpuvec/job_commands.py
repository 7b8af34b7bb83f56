"""The commands `gpuvec job …`: run a description, list, show, cancel, resume and forget jobs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from gpuvec.show import print_facts, print_rows

app = typer.Typer(help="Batch jobs: searches that outlive their process.", no_args_is_help=True)
out = Console(markup=False)  # data may hold brackets

Place = Annotated[str, typer.Argument(help="the database: ./shop, s3://bucket/shop")]
Name = Annotated[str, typer.Argument(help="the job; `gpuvec job list` names them")]
Cluster = Annotated[
    str | None, typer.Option(help="a Dask scheduler, tcp://host:8786; else this process works")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="a YAML file that describes the job")],
    cluster: Cluster = None,
    wait: Annotated[
        bool, typer.Option(help="stay until it is done; a cluster goes on without")
    ] = True,
) -> None:
    """Search with the queries of files and write the rows to Parquet files, part by part.

    Fields of the file: collection (./shop/items), queries (q/*.parquet) and output (a new folder);
    k, radius, filter, on, query_on, query_id, recall, exact, columns, tag, part_rows.

    A run that ends early is gone on with by `gpuvec job resume`.
    """
    from gpuvec.api.job_file import read_job_file

    description = read_job_file(file)
    with _database(description.database, cluster) as db:
        job = description.frame(db).submit(
            description.values["output"], part_rows=description.values.get("part_rows")
        )
        out.print(f"job {job.id}", highlight=False)
        if wait or cluster is None:
            _wait(job, description.database)


@app.command("list")
def list_(place: Place, as_json: AsJson = False) -> None:
    """Name the jobs of a database, the newest first."""
    from gpuvec.api.jobs import facts_of

    with _database(place) as db:
        facts = facts_of(db.jobs())
    print(json.dumps(facts, indent=2)) if as_json else print_rows(out, facts, keep=("status",))


@app.command()
def show(place: Place, job_id: Name, as_json: AsJson = False) -> None:
    """Tell what a job does and how far it is."""
    from gpuvec.api.jobs import details_of

    with _database(place) as db:
        facts = details_of(db.job(job_id))
    print(json.dumps(facts, indent=2)) if as_json else print_facts(out, facts)


@app.command()
def cancel(place: Place, job_id: Name, cluster: Cluster = None) -> None:
    """End a job, whoever works on it; `resume` goes on."""
    with _database(place, cluster) as db:
        job = db.job(job_id)
        job.cancel()
        out.print(f"{job.status}, {job.progress:.0%} is done", highlight=False)


@app.command()
def resume(place: Place, job_id: Name, cluster: Cluster = None) -> None:
    """Do the missing parts of a job, and wait for them."""
    with _database(place, cluster) as db:
        job = db.job(job_id)
        job.resume()
        _wait(job, place)


@app.command()
def forget(place: Place, job_id: Name) -> None:
    """Delete what the database keeps of a job; files in a folder of yours stay."""
    with _database(place) as db:
        db.job(job_id).forget()


def _wait(job: Any, place: str) -> None:
    from gpuvec.api.progress import progress
    from gpuvec.errors import DeadlineError

    shown = 0
    with progress("job", 100, "%") as advance:
        while True:
            share = int(100 * job.progress)
            advance(share - shown)
            shown = share
            try:
                rows = job.wait(timeout=0.5)
                break
            except DeadlineError:
                continue
            except KeyboardInterrupt:
                out.print(f"to go on: gpuvec job resume {place} {job.id}", highlight=False)
                raise
    out.print(f"{rows.count():,} rows in {job.output}", highlight=False)


@contextmanager
def _database(place: str, cluster: str | None = None) -> Iterator[Any]:
    import gpuvec as gv
    from gpuvec.api.location import check_database

    check_database(place)
    with gv.connect(place, cluster=cluster) as db:
        yield db
