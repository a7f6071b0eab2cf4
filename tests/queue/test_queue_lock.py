"""Nobody waits for the Queue's lock: whoever has it does nothing that waits, nor anything slow."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from gwrelay.message.envelope import Message
from gwrelay.queue import mailqueue
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from support.mail import CONTENT, FAILED, envelope
from support.patched import run_patched


def test_no_greenlet_leaves_the_lock_half_way_whatever_the_disk_does() -> None:
    run_patched("""
        import os
        import tempfile
        from types import SimpleNamespace
        import gevent
        import gevent.event
        from gwrelay.queue import mailqueue
        from gwrelay.queue.mailqueue import Queue
        from gwrelay.queue.spoolstore import SpoolStore, open_spool
        from gwrelay.queue.store import Host
        from support.mail import CONTENT, DEFERRED, DELIVERED, FAILED, envelope

        class Held:
            # Where only greenlets are, it is found taken when somebody waits who has it.
            taken = False

            def __enter__(self):
                assert not self.taken, "somebody waits who has the lock"
                self.taken = True

            def __exit__(self, *_):
                self.taken = False

        mailqueue.threading = SimpleNamespace(Lock=Held)

        def sync(descriptor):
            gevent.sleep(0.002)
            os.fdatasync(descriptor)

        # Small segments: some of what is written finds no room at once.
        log = open_spool(tempfile.mkdtemp(), sync=sync, segment_bytes=16384)
        queue = Queue(SpoolStore(log), resident_bytes=20 * len(CONTENT))

        def accept():
            for n in range(40):
                queue.add_message(envelope(f"{n}@a.test", "u@b.test", "u@d.test"), CONTENT)
                queue.add_message(envelope(f"{n}@a.test"), CONTENT)

        def relay(told):
            while (due := queue.get_waiting(3)) or not all(one.ready() for one in accepting):
                for delivery in due:
                    queue.note_in_doubt(delivery, Host("mx.test", "192.0.2.1"))
                    queue.settle(delivery, dict.fromkeys(delivery.recipients, told))
                for delivery in queue.get_waiting(1):
                    queue.set_waiting(delivery)
                gevent.sleep(0)

        accepting = [gevent.spawn(accept) for _ in range(3)]
        relaying = [gevent.spawn(relay, told) for told in (DELIVERED, FAILED, DEFERRED) * 3]
        gevent.joinall([*accepting, *relaying], timeout=20, raise_error=True)
        assert all(one.ready() for one in relaying), "not done"
        assert log.segments > 1
        queue.close()
    """)


def test_a_report_is_made_and_the_original_read_while_others_use_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    locks: list[threading.Lock] = []

    def lock() -> threading.Lock:
        locks.append(threading.Lock())
        return locks[-1]

    found: list[bool] = []

    class Watched(MemoryStore):
        def message(self, message_id: int) -> Message:
            found.append(locks[0].locked())
            return super().message(message_id)

        def content(self, message_id: int) -> Iterator[bytes]:
            found.append(locks[0].locked())
            return super().content(message_id)

        def next_id(self) -> int:
            found.append(locks[0].locked())
            return super().next_id()

    monkeypatch.setattr(mailqueue, "threading", SimpleNamespace(Lock=lock))
    queue = Queue(Watched(), resident_bytes=0)
    queue.add_message(envelope("b@b.test"), CONTENT)
    [delivery] = queue.get_waiting()
    found.clear()
    assert queue.settle(delivery, {0: FAILED}).report is not None
    assert found == [False] * 3
