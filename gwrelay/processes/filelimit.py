"""How many files a process of the gateway may have open."""

import logging
import resource

from gwrelay.config import Settings

logger = logging.getLogger(__name__)

#: Files a process has open besides its sessions: log segments, events, the resolver.
_OTHER_FILES = 200


def raise_file_limit(settings: Settings) -> None:
    """As many open files as the system allows; says so when that is too few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = settings.concurrency + settings.max_connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        logger.warning(
            "the limit of open files is %d; --concurrency %d and --max-connections %d may need "
            "%d: raise it, or lower these",
            hard,
            settings.concurrency,
            settings.max_connections,
            needed,
        )
