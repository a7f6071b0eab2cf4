"""Giving up root: who to become, and when what is done must be done as that one already."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from gwrelay.errors import ConfigError


class Account(NamedTuple):
    """A user that there is."""

    name: str
    uid: int
    gid: int


def account_to_be(name: str) -> Account | None:
    """The account of --user; None when nobody has to become anybody else.

    Raises ConfigError when there is no such user, or when we may not become it.
    """
    if not name:
        return None
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(
            f"--user {name}: there is no such user; make one, or name another"
        ) from None
    if os.geteuid() == found.pw_uid:
        return None
    if os.geteuid() != 0:
        raise ConfigError(
            f"--user {name}: only root can become another user; start it as root, or leave it out"
        )
    return Account(name, found.pw_uid, found.pw_gid)


@contextmanager
def acting_as(account: Account | None) -> Iterator[None]:
    """What is made meanwhile is made by `account`, and only what it may do can be done."""
    if account is None:
        yield
        return
    ours = os.getegid(), os.geteuid(), os.getgroups()
    os.initgroups(account.name, account.gid)
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        yield
    finally:
        os.seteuid(ours[1])
        os.setegid(ours[0])
        os.setgroups(ours[2])


def become(account: Account | None) -> None:
    """For good: nothing of root is left."""
    if account is None:
        return
    os.initgroups(account.name, account.gid)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
