"""One set of threads for torch's operators and Rarefy's."""

from __future__ import annotations

from pathlib import Path

import torch

from .. import _core


def share_threads(share: bool = True) -> bool:
    """Whether Rarefy's operators run on torch's OpenMP threads; `share=False` gives them back their own.

    OpenMP's threads spin for milliseconds after each of torch's operators. Threads of Rarefy's own then wait for the
    cores; torch's take its work while they spin. Importing `rarefy.ops` shares them. Returns False where torch is built
    without GNU's OpenMP. How many run is `rarefy.set_threads`' matter in either case, and results are the same bits.
    """
    if not share:
        _core._own_threads()
        return False
    return _core._borrow_threads_of(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
