"""Takes the example steps on a local store; says on standard output what it was answered."""

import os
import sys

from gpuvec.errors import StorageError
from gpuvec.storage.local import LocalStore
from gpuvec.testing.history import EXAMPLE_STEPS, StoreHistory

store = LocalStore(sys.argv[1])
history = StoreHistory(store)
for number, step in enumerate(EXAMPLE_STEPS):
    try:
        answer = history.run([step])
    except StorageError as error:
        os.writev(2, [f"{number} {error}\n".encode()])
    else:
        os.writev(
            1, [f"{number} {int(bool(answer))}\n".encode()]
        )  # not `write`, whose calls are the store's
