"""What several relayers note at once: one write for all of them, and one fate."""

from support.patched import run_patched

PREAMBLE = """
        import shutil
        import tempfile
        import gevent
        import gevent.event
        from gwrelay.errors import StoreFailed
        from gwrelay.queue.mailqueue import Queue
        from gwrelay.queue.spoolstore import SpoolStore, open_spool
        from gwrelay.queue.store import Host
        from support.mail import CONTENT, envelope

        directory = tempfile.mkdtemp()
        log = open_spool(directory)
        queue = Queue(SpoolStore(log))
        for n in range(5):
            queue.add_message(envelope(f"u{n}@b.test"), CONTENT)
        deliveries = queue.get_waiting()
        host = Host("mx.test", "192.0.2.1")
        written = []
        note = log.note

        def note_all():
            noting = [gevent.spawn(queue.note_in_doubt, one, host) for one in deliveries]
            gevent.joinall(noting, timeout=5)
            return noting
"""


def test_those_who_are_ready_at_once_share_one_write_that_a_crash_leaves_behind() -> None:
    run_patched(f"""{PREAMBLE}
        log.note = lambda batch: (written.append(len(batch)), note(batch))[1]
        assert all(one.successful() for one in note_all())
        assert written == [5], written
        # Nothing is closed or synced: what the next process finds is what was written.
        copy = tempfile.mkdtemp()
        shutil.copytree(directory, copy, dirs_exist_ok=True)
        left = SpoolStore(open_spool(copy))
        [found] = left.load()
        assert [state.open[0].doubt.host for _, state in found] == [host] * 5, found
    """)


def test_what_is_noted_is_in_the_file_though_its_segment_was_full() -> None:
    run_patched(f"""{PREAMBLE}
        directory = tempfile.mkdtemp()
        log = open_spool(directory, segment_bytes=4096)
        queue = Queue(SpoolStore(log))
        queue.add_message(envelope("u@b.test"), CONTENT)
        [delivery] = queue.get_waiting()
        for n in range(60):
            host = Host(f"mx{{n}}.test", "192.0.2.1")
            queue.note_in_doubt(delivery, host)
            copy = tempfile.mkdtemp()
            shutil.copytree(directory, copy, dirs_exist_ok=True)
            left = SpoolStore(open_spool(copy))
            [[(_, state)]] = left.load()
            assert state.open[0].doubt.host == host, (n, state)
            left.close()
        assert log.segments > 1, "none of them was full"
    """)


def test_a_note_that_finds_no_room_at_all_keeps_the_dot_from_being_sent() -> None:
    run_patched(f"""{PREAMBLE}
        from spool import SpoolFull

        def refuse():
            raise SpoolFull("no space left on device")

        log.note = lambda batch: False
        log.sync = refuse
        assert all(isinstance(one.exception, StoreFailed) for one in note_all())
        assert all(one.doubt is None for one in deliveries)
    """)


def test_a_write_that_fails_is_told_to_all_who_wait_for_it() -> None:
    run_patched(f"""{PREAMBLE}
        def fail(batch):
            raise OSError(28, "No space left on device")

        log.note = fail
        assert all(isinstance(one.exception, StoreFailed) for one in note_all())
        assert all(one.doubt is None for one in deliveries)
    """)


def test_those_who_wait_for_one_that_is_killed_are_told_too() -> None:
    run_patched(f"""{PREAMBLE}
        started = gevent.event.Event()

        def stall(batch):
            started.set()
            gevent.sleep(60)

        log.note = stall
        noting = [gevent.spawn(queue.note_in_doubt, one, host) for one in deliveries]
        assert started.wait(5)
        noting[0].kill()
        gevent.joinall(noting, timeout=5)
        assert [type(one.exception) for one in noting[1:]] == [StoreFailed] * 4
    """)


def test_a_note_waits_for_no_sync_though_other_parts_of_its_message_were_just_settled() -> None:
    run_patched("""
        import os
        import tempfile
        import gevent
        import gevent.event
        from gwrelay.queue.mailqueue import Queue
        from gwrelay.queue.spoolstore import SpoolStore, open_spool
        from gwrelay.queue.store import Host
        from support.mail import CONTENT, DEFERRED, DELIVERED, envelope

        free, begun = gevent.event.Event(), gevent.event.Event()
        free.set()

        def sync(descriptor):
            begun.set()
            free.wait()
            os.fdatasync(descriptor)

        directory = tempfile.mkdtemp()
        queue = Queue(SpoolStore(open_spool(directory, sync=sync)))
        queue.add_message(envelope("a@a.test", "b@b.test", "d@d.test"), CONTENT)
        taken = {one.destination: one for one in queue.get_waiting()}
        begun.clear()
        free.clear()
        accepting = gevent.spawn(queue.add_message, envelope("x@x.test"), CONTENT)
        assert begun.wait(5)
        with gevent.Timeout(5):
            for name, told in (("a.test", DELIVERED), ("b.test", DEFERRED)):
                queue.settle(taken[name], dict.fromkeys(taken[name].recipients, told))
                queue.note_in_doubt(taken["d.test"], Host(f"mx.{name}", "192.0.2.1"))
        assert not accepting.ready()
        free.set()
        accepting.get(timeout=5)
        queue.close()
        [[_, state], _] = next(SpoolStore(open_spool(directory)).load())
        doubts = {part.destination: part.doubt and part.doubt.host.exchange for part in state.open}
        assert doubts == {"b.test": None, "d.test": "mx.b.test"}, state
    """)
