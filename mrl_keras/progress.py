"""A progress bar where one is asked for; nothing is imported where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(show: bool, total: int | None, title: str) -> Iterator[Callable[[int], None]]:
    """Yields `advance(steps)`, which moves a tqdm bar if `show` is true and else does nothing.

    Args:
        show: bool.
        total: int, the number of steps, or `None` where it is not known.
        title: str, shown before the bar.

    Raises:
        ImportError: `show` is true and tqdm is not installed.
    """
    if not show:
        yield lambda steps: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "`progress=True` needs tqdm, which is not installed. Install it with: "
            'pip install "mrl_keras[recipes]"'
        ) from error
    with tqdm(total=total, desc=title, unit_scale=True) as bar:
        yield lambda steps: bar.update(steps)
