"""`limbeck serve`: answer over HTTP.

Parses, calls `limbeck.serving.prepare`, prints where it listens.
"""

from typing import Annotated, Any

import typer

from limbeck.cli import options
from limbeck.cli.progress import on_stderr


@options.run_options("backend", "precision")
def serve(
    place: options.Place,
    run: dict[str, Any],
    host: Annotated[
        str, typer.Option(help="The address to listen on; anyone who reaches it may ask.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="The port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = 8000,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Another name that requests may be addressed to, such as a proxy's; `*.NAME` for "
            "all below it, `*` for any.",
            metavar="NAME",
            show_default="loopback names and --host",
        ),
    ] = None,
    allowed_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="A web site whose pages may ask (CORS), such as https://app.example.org; `*` for "
            "any.",
            metavar="ORIGIN",
            show_default="none",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="What /v1/embeddings calls the model.", show_default="the name of the folder"
        ),
    ] = None,
    teacher: options.Reranker = None,
    bm25: Annotated[
        bool,
        typer.Option(
            help="Search by words, too; of a large collection that takes memory and some minutes."
        ),
    ] = True,
    max_batch: Annotated[
        int, typer.Option(help="Texts that are computed together; 1 batches nothing.", min=1)
    ] = 32,
    max_wait_ms: Annotated[
        float,
        typer.Option(help="How long a text waits for others, in milliseconds.", min=0, max=1000),
    ] = 0.0,
    max_queue: Annotated[
        int,
        typer.Option(
            help="Texts that may wait, of a request at most --max-batch; beyond, requests are "
            "refused for a while.",
            min=1,
        ),
    ] = 1024,
    max_texts: Annotated[int, typer.Option(help="Texts in one request.", min=1)] = 2048,
    max_characters: Annotated[int, typer.Option(help="Characters of one text.", min=1)] = 32_000,
    max_body: Annotated[int, typer.Option(help="Bytes of one request.", min=1000)] = 16_000_000,
    read_seconds: Annotated[
        float, typer.Option(help="Seconds in which a request must have arrived.", min=0.1)
    ] = 30.0,
) -> None:
    """Serve a run or an index over HTTP: search, embeddings, re-ranking, and a page to try it."""
    from limbeck import serving

    limits = serving.Limits(
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        max_queue=max_queue,
        max_texts=max_texts,
        max_characters=max_characters,
        max_body=max_body,
        read_seconds=read_seconds,
    )
    with on_stderr() as progress:
        server = serving.prepare(
            place,
            host=host,
            port=port,
            name=name,
            teacher=teacher,
            bm25=bm25,
            hosts=allowed_host or (),
            origins=allowed_origin or (),
            limits=limits,
            **run,
            progress=progress,
        )
    address = f"Serving {server.name} on {server.address} (Ctrl-C ends it)"
    server.run(lambda: typer.echo(address))
