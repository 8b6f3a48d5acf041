"""What every broker must do: the suite that `test_amqp.py` and `test_sqlite.py` run over theirs."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest

from aiki.broker import CONTROL, DEAD, HEARTBEAT, Broker, BrokerForeign, Depth, Session, Settled, answers, reports, work
from aiki.errors import BrokerUnavailable, ConfigurationError, MessageTooLarge
from tests.broker.kits import Kit, bodies, nothing, publish, settle, take
from tests.waiting import wait_until

A = work("ns", "a")
B = work("ns", "b")
R = reports(0)


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [f"m{number}".encode() for number in range(start, start + count)]


class BrokerContract:
    """Run over each broker; the subclass supplies the fixture `kit`."""

    # ------------------------------------------------------------ the shape
    def test_it_is_what_the_protocol_says(self, kit: Kit) -> None:
        assert isinstance(kit.broker, Broker)
        assert isinstance(kit.connect(), Session)
        assert kit.broker.url == kit.url

    # ------------------------------------------------------------ whose it is
    def test_it_belongs_to_the_first_installation_that_claims_it(self, kit: Kit) -> None:
        mine, other = "a" * 32, "b" * 32
        first, second = kit.connect(), kit.connect()
        assert not first.is_claimed()
        first.claim(mine)
        second.claim(mine)
        assert second.is_claimed()
        stranger = kit.connect()
        with pytest.raises(BrokerForeign) as caught:
            stranger.claim(other)
        assert caught.value.owner == mine
        third = kit.connect()
        third.claim(other, anew=True)
        third.claim(other)
        with pytest.raises(BrokerForeign):
            kit.connect().claim(mine)
        publish(third, A, b"it is used as before")

    # ------------------------------------------------------------ sending and settling
    def test_messages_come_in_the_order_sent(self, kit: Kit) -> None:
        session = kit.connect()
        publish(session, A, *numbered(500))
        session.subscribe(A, 1000)
        got = take(session, 500)
        assert bodies(got) == numbered(500)
        assert not any(delivery.redelivered for delivery in got)
        assert {delivery.source for delivery in got} == {A}

    def test_messages_are_numbered_and_each_settles_once(self, kit: Kit) -> None:
        session = kit.connect()
        assert [session.send(A, b"x") for _ in range(300)] == list(range(1, 301))
        assert settle(session, 300) == [Settled(number, True) for number in range(1, 301)]
        session.receive(0.1)
        assert session.settled() == []
        assert session.send(B, b"x") == 301

    def test_a_message_to_a_missing_queue_settles_as_not_ok(self, kit: Kit) -> None:
        session = kit.connect()
        publish(session, R, b"first")
        kit.delete_queue(R)
        lost, kept = session.send(R, b"lost"), session.send(A, b"kept")
        assert settle(session, 2) == [Settled(lost, False), Settled(kept, True)]
        assert kit.connect().depth(R) is None

    def test_a_new_session_declares_again(self, kit: Kit) -> None:
        publish(kit.connect(), R, b"first")
        kit.delete_queue(R)
        session = kit.connect()
        publish(session, R, b"second")
        session.subscribe(R, 10)
        assert bodies(take(session, 1)) == [b"second"]

    def test_receive_returns_when_something_settles(self, kit: Kit) -> None:
        session = kit.connect()
        session.send(A, b"x")
        begun = time.monotonic()
        session.receive(15.0)
        assert session.settled() == [Settled(1, True)]
        assert time.monotonic() - begun < 10

    @pytest.mark.parametrize("body", [b"", bytes(range(256)), b"x" * 200_000, os.urandom(10 << 20)], ids=len)
    def test_a_body_arrives_as_it_was(self, kit: Kit, body: bytes) -> None:
        session = kit.connect()
        publish(session, A, body, b"next")
        session.subscribe(A, 10)
        assert bodies(take(session, 2)) == [body, b"next"]

    def test_messages_outlive_sessions(self, kit: Kit) -> None:
        session = kit.connect()
        publish(session, A, b"kept")
        session.close()
        session = kit.connect()
        session.subscribe(A, 1)
        (delivery,) = take(session, 1)
        assert (delivery.body, delivery.redelivered) == (b"kept", False)

    def test_namespaces_and_queues_with_dots_stay_apart(self, kit: Kit) -> None:
        session = kit.connect()
        one, two = work("ns.x", "a"), work("ns", "x.a")
        publish(session, one, b"one")
        publish(session, two, b"two")
        assert (session.purge(one), session.purge(two)) == (1, 1)
        kit.delete_queue(one)
        kit.delete_queue(two)

    # ------------------------------------------------------------ receiving
    def test_receive_is_bounded(self, kit: Kit) -> None:
        session = kit.connect()
        session.subscribe(A, 1)
        session.receive(0.2)
        begun = time.monotonic()
        assert session.receive(0) == []
        assert time.monotonic() - begun < 0.2
        begun = time.monotonic()
        assert session.receive(0.3) == []
        assert 0.25 < time.monotonic() - begun < 3

    def test_wake_ends_receive(self, kit: Kit) -> None:
        session = kit.connect()
        session.subscribe(A, 1)
        readable, writable = os.pipe()
        try:
            timer = threading.Timer(0.2, os.write, (writable, b"x"))
            timer.start()
            begun = time.monotonic()
            assert session.receive(15.0, readable) == []
            assert 0.1 < time.monotonic() - begun < 5
            # It is the owner who reads the descriptor: as long as it is readable, nobody waits.
            assert session.receive(15.0, readable) == []
            assert time.monotonic() - begun < 5
            timer.join()
        finally:
            os.close(readable)
            os.close(writable)
        assert session.receive(0.05) == []

    def test_a_delivery_ends_receive_at_once(self, kit: Kit) -> None:
        taker, sender = kit.connect(), kit.connect()
        taker.subscribe(A, 1)
        taker.receive(0.1)
        timer = threading.Timer(0.2, lambda: publish(sender, A, b"x"))
        timer.start()
        begun = time.monotonic()
        assert bodies(taker.receive(15.0)) == [b"x"]
        assert time.monotonic() - begun < 5
        timer.join()

    def test_prefetch_limits_what_is_unacked(self, kit: Kit) -> None:
        session = kit.connect()
        publish(session, A, *numbered(10))
        session.subscribe(A, 3)
        first = take(session, 3)
        nothing(session)
        session.ack(first[:2])
        second = take(session, 2)
        nothing(session)
        session.ack(first[2:] + second)
        third = take(session, 3)
        assert bodies(first + second + third) == numbered(8)

    def test_prefetch_is_counted_for_each_subscription(self, kit: Kit) -> None:
        session = kit.connect()
        publish(session, A, *numbered(5))
        publish(session, B, *numbered(5))
        session.subscribe(A, 1)
        session.subscribe(B, 2)
        got = take(session, 3)
        nothing(session)
        assert sorted(delivery.source.key for delivery in got) == ["ns/a", "ns/b", "ns/b"]

    def test_subscribing_again_changes_the_prefetch(self, kit: Kit) -> None:
        session = kit.connect()
        publish(session, A, *numbered(9))
        session.subscribe(A, 2)
        first = take(session, 2)
        session.ack(first)
        second = take(session, 2)
        session.ack(second)
        session.subscribe(A, 5)
        got = take(session, 5)
        nothing(session)
        assert len(set(bodies(first + second + got))) == 9

    def test_unsubscribe_ends_deliveries_and_keeps_what_was_taken(self, kit: Kit) -> None:
        session = kit.connect()
        publish(session, A, *numbered(3))
        session.subscribe(A, 2)
        taken = take(session, 2)
        session.unsubscribe(A)
        session.unsubscribe(A)
        session.ack(taken)
        nothing(session)
        wait_until(lambda: session.depth(A) == Depth(1, 0))
        session.subscribe(A, 2)
        assert bodies(take(session, 1)) == [b"m2"]

    def test_work_is_shared(self, kit: Kit) -> None:
        one, two = kit.connect(), kit.connect()
        one.subscribe(A, 1)
        two.subscribe(A, 1)
        publish(kit.connect(), A, *numbered(2))
        assert sorted(bodies(take(one, 1) + take(two, 1))) == numbered(2)

    # ------------------------------------------------------------ acks
    def test_acked_messages_are_gone_and_the_others_come_back(self, kit: Kit) -> None:
        chance = random.Random(7)
        session = kit.connect()
        publish(session, A, *numbered(320))
        session.subscribe(A, 200)
        got = take(session, 200)
        acked = chance.sample(got, 120)
        rest = [delivery.body for delivery in got if delivery not in acked]
        while acked:
            cut = chance.randrange(1, 20)
            session.ack(acked[:cut])
            acked = acked[cut:]
            session.beat()
        # What the prefetch lets through now proves that the acks have arrived.
        rest += bodies(take(session, 120))
        session.close()
        session = kit.connect()
        session.subscribe(A, 300)
        again = take(session, 200)
        assert bodies(again) == rest
        assert all(delivery.redelivered for delivery in again)

    def test_requeued_messages_come_again_flagged_in_their_place(self, kit: Kit) -> None:
        session, other = kit.connect(), kit.connect()
        publish(session, A, *numbered(4))
        session.subscribe(A, 3)
        got = take(session, 3)
        session.unsubscribe(A)
        session.ack(got[1:2])
        session.requeue([got[2], got[0]])
        session.beat()
        wait_until(lambda: other.depth(A) == Depth(3, 0))
        other.subscribe(A, 10)
        again = take(other, 3)
        assert [(one.body, one.redelivered) for one in again] == [(b"m0", True), (b"m2", True), (b"m3", False)]

    def test_closing_gives_back_what_was_not_acked(self, kit: Kit) -> None:
        first, second = kit.connect(), kit.connect()
        publish(first, A, *numbered(3))
        first.subscribe(A, 10)
        first.ack(take(first, 3)[:1])
        first.close()
        second.subscribe(A, 10)
        again = take(second, 2)
        assert bodies(again) == numbered(2, start=1)
        assert all(delivery.redelivered for delivery in again)

    def test_acks_of_other_sessions_and_second_acks_do_nothing(self, kit: Kit) -> None:
        old = kit.connect()
        publish(old, A, *numbered(4))
        old.subscribe(A, 10)
        stale = take(old, 4)
        old.close()
        old.ack(stale)
        old.requeue(stale)
        old.reject(stale[0])
        session = kit.connect()
        session.subscribe(A, 10)
        again = take(session, 4)
        session.ack(stale)
        session.requeue(stale)
        session.reject(stale[0])
        session.ack(again[:2] + again[:2])
        session.ack(again[:2])
        session.requeue(again[:2])
        nothing(session)
        session.close()
        last = kit.connect()
        last.subscribe(A, 10)
        assert bodies(take(last, 2)) == numbered(2, start=2)
        assert last.depth(DEAD) in (None, Depth(0, 0))

    def test_rejected_messages_are_dead_letters_that_say_why_and_from_where(self, kit: Kit) -> None:
        session = kit.connect()
        publish(session, A, b"bad", b"good")
        session.subscribe(A, 10)
        bad, good = take(session, 2)
        session.reject(bad)
        session.ack([good])
        session.subscribe(DEAD, 10)
        (dead,) = take(session, 1)
        assert (dead.source, dead.body) == (DEAD, b"bad")
        assert dead.headers["reason"] == "rejected"
        assert dead.headers["queue"] == "work/ns/a"
        assert abs(dead.headers["time"] - time.time()) < 60
        session.ack([dead])
        session.receive(0)
        wait_until(lambda: session.depth(A) == Depth(0, 1))

    def test_a_rejected_dead_letter_is_thrown_away(self, kit: Kit) -> None:
        session = kit.connect()
        publish(session, DEAD, b"dead")
        session.subscribe(DEAD, 10)
        session.reject(take(session, 1)[0])
        nothing(session)
        session.close()
        assert kit.connect().depth(DEAD) == Depth(0, 0)

    # ------------------------------------------------------------ reports
    def test_a_partition_has_one_active_consumer_and_the_next_takes_over(self, kit: Kit) -> None:
        first, second, sender = kit.connect(), kit.connect(), kit.connect()
        first.subscribe(R, 100)
        second.subscribe(R, 100)
        publish(sender, R, *numbered(20))
        got = take(first, 20)
        nothing(second)
        first.ack(got[:15])
        first.close()
        again = take(second, 5)
        assert bodies(again) == numbered(5, start=15)
        assert all(delivery.redelivered for delivery in again)
        publish(sender, R, b"later")
        assert bodies(take(second, 1)) == [b"later"]

    def test_the_next_takes_over_when_the_active_one_unsubscribes(self, kit: Kit) -> None:
        first, second, sender = kit.connect(), kit.connect(), kit.connect()
        first.subscribe(R, 10)
        second.subscribe(R, 10)
        publish(sender, R, b"one")
        first.ack(take(first, 1))
        first.unsubscribe(R)
        publish(sender, R, b"two")
        assert bodies(take(second, 1)) == [b"two"]

    # ------------------------------------------------------------ control and heartbeats
    @pytest.mark.parametrize("road", [CONTROL, HEARTBEAT])
    def test_every_subscriber_of_a_fanout_gets_everything_from_then_on(self, kit: Kit, road) -> None:  # type: ignore[no-untyped-def]
        one, two, sender = kit.connect(), kit.connect(), kit.connect()
        publish(sender, road, b"nobody listens")
        one.subscribe(road, 5)
        publish(sender, road, b"one")
        two.subscribe(road, 5)
        publish(sender, road, *numbered(50))
        got = take(one, 51)
        one.ack(got)
        assert bodies(got) == [b"one", *numbered(50)]
        assert {delivery.source for delivery in got} == {road}
        assert bodies(take(two, 50)) == numbered(50)
        two.unsubscribe(road)
        publish(sender, road, b"late")
        assert bodies(take(one, 1)) == [b"late"]
        nothing(two)

    def test_an_answer_reaches_the_one_who_asked(self, kit: Kit) -> None:
        one, two, sender = kit.connect(), kit.connect(), kit.connect()
        publish(sender, answers("w/0.1"), b"nobody listens")
        one.subscribe(answers("w/0.1"), 5)
        two.subscribe(answers("w/0.2"), 5)
        publish(sender, answers("w/0.1"), *numbered(20))
        publish(sender, answers("w/0.2"), b"two")
        got = take(one, 20)
        one.ack(got)
        assert bodies(got) == numbered(20)
        assert {delivery.source for delivery in got} == {answers("w/0.1")}
        assert bodies(take(two, 1)) == [b"two"]
        nothing(one)

    def test_what_is_too_large_is_refused_and_the_session_goes_on(self, kit: Kit) -> None:
        session = kit.connect()
        kit.broker.limit.bytes = 1000
        publish(session, A, b"before")
        with pytest.raises(MessageTooLarge, match="a message of 1,001 bytes is more than the broker takes"):
            session.send(A, b"x" * 1001)
        publish(session, A, b"x" * 1000)
        session.subscribe(A, 5)
        assert [len(body) for body in bodies(take(session, 2))] == [6, 1000]

    # ------------------------------------------------------------ questions
    def test_depth_and_purge(self, kit: Kit) -> None:
        session = kit.connect()
        assert session.depth(A) is None
        assert session.purge(A) == 0
        publish(session, A, *numbered(5))
        wait_until(lambda: session.depth(A) == Depth(5, 0))
        session.subscribe(A, 2)
        take(session, 2)
        wait_until(lambda: session.depth(A) == Depth(3, 1))
        assert session.purge(A) == 3
        wait_until(lambda: session.depth(A) == Depth(0, 1))
        assert session.blocked is None

    def test_a_deleted_queue_ends_the_session_that_subscribes_to_it(self, kit: Kit) -> None:
        session = kit.connect()
        session.subscribe(A, 1)
        session.receive(0)
        kit.delete_queue(A)
        with pytest.raises(BrokerUnavailable, match="queue"):
            wait_until(lambda: session.receive(1.0))
        with pytest.raises(BrokerUnavailable):
            session.send(B, b"x")

    def test_nonsense_is_refused(self, kit: Kit) -> None:
        session = kit.connect()
        with pytest.raises(ConfigurationError, match="prefetch=0"):
            session.subscribe(A, 0)

    # ------------------------------------------------------------ ends
    def test_a_closed_session_says_so(self, kit: Kit) -> None:
        session = kit.connect("mine")
        session.close()
        session.close()
        for use in (lambda: session.receive(0), lambda: session.send(A, b"x"), session.beat, lambda: session.depth(A)):
            with pytest.raises(BrokerUnavailable, match=r"mine.*closed"):
                use()

    def test_closing_sends_what_is_pending(self, kit: Kit) -> None:
        session = kit.connect()
        publish(session, A, *numbered(2))
        session.subscribe(A, 10)
        session.ack(take(session, 2)[:1])
        session.send(B, b"pending")
        session.close()
        other = kit.connect()
        other.subscribe(A, 10)
        assert bodies(take(other, 1)) == [b"m1"]
        other.subscribe(B, 10)
        assert bodies(take(other, 1)) == [b"pending"]

    def test_a_killed_consumer_s_messages_come_back_in_order(self, kit: Kit) -> None:
        session = kit.connect()
        publish(session, A, *numbered(8))
        process = kit.process("hold", "5")
        assert process.line() == "holds 5"
        session.subscribe(A, 10)
        first = take(session, 3)
        process.kill9()
        begun = time.monotonic()
        again = take(session, 5)
        assert time.monotonic() - begun < 4
        assert sorted(bodies(first + again)) == numbered(8)
        assert bodies(again) == numbered(5)
        assert all(delivery.redelivered for delivery in again)

    def test_a_stopped_consumer_is_not_dead(self, kit: Kit) -> None:
        session = kit.connect()
        publish(session, A, *numbered(2))
        process = kit.process("hold", "2")
        assert process.line() == "holds 2"
        process.signal(signal.SIGSTOP)
        session.subscribe(A, 10)
        nothing(session, 2.5)
        process.kill9()
        take(session, 2)

    # ------------------------------------------------------------ forks
    def test_a_forked_child_does_not_disturb_its_parent(self, kit: Kit) -> None:
        session = kit.connect()
        publish(session, A, b"x")
        process = kit.process("fork")
        assert process.line() == "fine"
        assert process.wait() == 0
        session.subscribe(B, 10)
        got = take(session, 3)
        assert sorted(bodies(got)) == [b"child", b"parent", b"sent before the fork, written after"]
        wait_until(lambda: session.depth(A) == Depth(0, 0))

    def test_a_forked_child_does_not_keep_its_dead_parent_alive(self, kit: Kit) -> None:
        session = kit.connect()
        publish(session, A, *numbered(3))
        process = kit.process("hold_and_fork", "3")
        assert process.line().startswith("forked ")
        session.subscribe(A, 10)
        nothing(session)
        process.kill9()
        begun = time.monotonic()
        assert bodies(take(session, 3)) == numbered(3)
        assert time.monotonic() - begun < 5

    # ------------------------------------------------------------ many at once
    def test_several_processes_take_each_message_once(self, kit: Kit) -> None:
        consumers = [kit.process("consume") for _ in range(2)]
        assert [process.line() for process in consumers] == ["ready", "ready"]
        producers = [kit.process("produce", "400", mark) for mark in "xy"]
        assert [process.line() for process in producers] == ["produced 400", "produced 400"]
        seen: list[str] = []
        lock = threading.Lock()

        def follow(process) -> None:  # type: ignore[no-untyped-def]
            while (line := process.line()) not in ("", "stop"):
                with lock:
                    seen.append(line)

        readers = [threading.Thread(target=follow, args=(process,)) for process in consumers]
        for reader in readers:
            reader.start()
        wait_until(lambda: len(seen) >= 800, 30, "800 messages consumed")
        session = kit.connect()
        for process, reader in zip(consumers, readers, strict=True):
            process.kill9()
            reader.join()
        assert sorted(seen) == sorted(f"{mark}{number}" for mark in "xy" for number in range(400))
        wait_until(lambda: (session.receive(1.1), session.depth(A))[1] == Depth(0, 0))

    def test_consumers_killed_in_the_middle_lose_nothing(self, kit: Kit) -> None:
        session = kit.connect()
        seen: set[str] = set()
        for turn in range(5):
            publish(session, A, *numbered(120, 120 * turn))
            process = kit.process("consume")
            assert process.line() == "ready"
            seen.update(process.line() for _ in range(70))
            process.kill9()
            while line := process.line():  # what it had told by then
                seen.add(line)
        publish(session, A, b"stop")
        process = kit.process("consume")
        assert process.line() == "ready"
        while (line := process.line()) != "stop":
            assert line, "the consumer ended"
            seen.add(line)
        assert process.wait() == 0
        # What the last killed one held came back behind its successor's first messages, perhaps behind the stop.
        session.subscribe(A, 1000)
        wait_until(lambda: (seen.update(one.body.decode() for one in session.receive(0.2)), len(seen - {"stop"}) >= 600)[1])
        assert seen.symmetric_difference(f"m{number}" for number in range(600)) <= {"stop"}

    def test_threads_with_sessions_of_their_own(self, kit: Kit) -> None:
        publish(kit.connect(), A, *numbered(300))
        sessions = [kit.connect() for _ in range(3)]
        got: list[bytes] = []
        problems: list[BaseException] = []

        def work_off(session: Session) -> None:
            try:
                session.subscribe(A, 5)
                while len(got) < 300:
                    deliveries = session.receive(0.1)
                    got.extend(bodies(deliveries))
                    session.ack(deliveries)
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=work_off, args=(session,)) for session in sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert problems == []
        assert sorted(got) == sorted(numbered(300))
