"""Makes a Dask scheduler the coordinator of gpuvec databases.

Run as `dask scheduler --preload gpuvec.cluster.preload`. Dask only logs what a preload raises, and
would serve on without a coordinator; so a scheduler that cannot be one is closed here. Read from
Dask's configuration:

* `gpuvec.databases`: URLs that are held open whether or not a client asks;
* `gpuvec.storage-options`: of their store;
* `gpuvec.replicas`: nodes that hold each segment, 1 by default.
"""

import logging
from typing import Any

from gpuvec.cluster import observe
from gpuvec.cluster.scheduler_plugin import CoordinatorPlugin

_logger = logging.getLogger("gpuvec.cluster")

observe.prepare()  # pages are known before the scheduler builds its HTTP server


async def dask_setup(scheduler: Any) -> None:
    """See Dask's documentation of preload scripts."""
    plugin = CoordinatorPlugin(scheduler)
    try:
        await plugin.begin()
    except Exception:
        _logger.critical("this scheduler cannot coordinate gpuvec; it ends", exc_info=True)
        scheduler.loop.add_callback(scheduler.close)
        raise
    scheduler.add_plugin(plugin, name=plugin.name)
