"""How far long work has come: a bar after two seconds, or whatever `gv.config` names instead."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gpuvec.settings import config

_DELAY_S = 2.0


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how much more is done.

    With `config["progress"]` True a bar appears after two seconds, on a terminal; with False
    nothing does; a function is called with `{"what", "done", "total", "unit"}` at every step.

    Args:
        what: the work, for example "import".
        total: how much there is.
        unit: of `total`, for example "rows".
    """
    wish = config["progress"]
    if callable(wish):
        done = 0

        def tell(more: int) -> None:
            nonlocal done
            done += more
            wish({"what": what, "done": done, "total": total, "unit": unit})

        yield tell
        return
    if not wish:
        yield lambda more: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=what, unit=f" {unit}", delay=_DELAY_S, disable=None) as bar:

        def advance(more: int) -> None:
            bar.update(more)

        yield advance
