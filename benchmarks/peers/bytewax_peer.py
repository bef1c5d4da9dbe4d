"""bytewax: a source of its own, `stateful_flat_map`, and a sink of its own."""

import json
import socket

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main
from rule import DESTINATION, FEED, NEW, Destination, address, pay


class Lines(StatelessSourcePartition):
    def __init__(self) -> None:
        self.connection = socket.create_connection(address(FEED))
        self.connection.setblocking(False)
        self.rest = b""

    def next_batch(self):
        try:
            received = self.connection.recv(1 << 16)
        except BlockingIOError:
            return []
        if not received:
            raise StopIteration
        *whole, self.rest = (self.rest + received).split(b"\n")
        return [json.loads(line) for line in whole]


class Feed(DynamicSource):
    def build(self, step_id, worker_index, worker_count):
        return Lines()


class Posts(StatelessSinkPartition):
    def __init__(self) -> None:
        self.destination = Destination(DESTINATION)

    def write_batch(self, items):
        for _, found in items:
            self.destination.post(found)


class Receiver(DynamicSink):
    def build(self, step_id, worker_index, worker_count):
        return Posts()


def judge(card, message):
    card, found = pay(card or NEW, message)
    return card, [found] if found else []


flow = Dataflow("cards")
messages = op.input("feed", flow, Feed())
by_card = op.key_on("card", messages, lambda message: message["properties"]["card_id"])
op.output("post", op.stateful_flat_map("judge", by_card, judge), Receiver())
run_main(flow)
