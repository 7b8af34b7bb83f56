"""Properties that are computed once for each object, and hold no lock meanwhile.

`functools.cached_property` of Python 3.11 has one lock per property, held while it is computed for
any object: searches of different rows wait for each other, and two threads that also wait for each
other's entries of a cache wait for ever. From Python 3.12 on it has none, and this is it.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or sys.version_info >= (3, 12):
    from functools import cached_property as cached_property
else:
    _MISSING = object()

    class cached_property:
        """See `functools.cached_property`; threads that come at once may each compute it."""

        def __init__(self, func: Any) -> None:
            self.func = func
            self.__doc__ = func.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            if instance is None:
                return self
            found = instance.__dict__.get(self._name, _MISSING)
            if found is _MISSING:
                found = instance.__dict__.setdefault(self._name, self.func(instance))
            return found
