"""Every error a user can meet.

The classes are in `base`; the builders, one per code, lie in modules named by their subject.
"""

from gpuvec.errors.absent import *  # noqa: F403
from gpuvec.errors.access import *  # noqa: F403
from gpuvec.errors.base import *  # noqa: F403
from gpuvec.errors.cache import *  # noqa: F403
from gpuvec.errors.channels import *  # noqa: F403
from gpuvec.errors.committing import *  # noqa: F403
from gpuvec.errors.deploying import *  # noqa: F403
from gpuvec.errors.device import *  # noqa: F403
from gpuvec.errors.filters import *  # noqa: F403
from gpuvec.errors.hosting import *  # noqa: F403
from gpuvec.errors.imports import *  # noqa: F403
from gpuvec.errors.indexes import *  # noqa: F403
from gpuvec.errors.jobs import *  # noqa: F403
from gpuvec.errors.memory import *  # noqa: F403
from gpuvec.errors.ownership import *  # noqa: F403
from gpuvec.errors.queries import *  # noqa: F403
from gpuvec.errors.remote import *  # noqa: F403
from gpuvec.errors.routing import *  # noqa: F403
from gpuvec.errors.rows import *  # noqa: F403
from gpuvec.errors.schemas import *  # noqa: F403
from gpuvec.errors.seeing import *  # noqa: F403
from gpuvec.errors.settings import *  # noqa: F403
from gpuvec.errors.spread import *  # noqa: F403
from gpuvec.errors.storage import *  # noqa: F403
from gpuvec.errors.upkeep import *  # noqa: F403
from gpuvec.errors.verification import *  # noqa: F403
from gpuvec.errors.versions import *  # noqa: F403
from gpuvec.errors.writers import *  # noqa: F403
