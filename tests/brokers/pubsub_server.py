"""The part of google.pubsub.v1 that a pulling subscriber uses, as a gRPC server: leases that run
out, redelivery, acknowledgement by ack id."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf import empty_pb2
from google.pubsub_v1 import types


@dataclass
class Leased:
    message: Any
    ack_id: str = ""
    until: float = 0.0


class PubSubServer:
    """Topics and subscriptions in memory, on a port of its own."""

    def __init__(self) -> None:
        self._mutex = threading.Condition()
        self._numbers = itertools.count(1)
        self._subscriptions: dict[str, Any] = {}
        self._messages: dict[str, dict[str, Leased]] = {}
        self._server = grpc.server(ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers(
            [
                self._service(
                    "Publisher",
                    CreateTopic=(types.Topic, types.Topic, lambda request, _: request),
                    Publish=(types.PublishRequest, types.PublishResponse, self._publish),
                ),
                self._service(
                    "Subscriber",
                    CreateSubscription=(types.Subscription, types.Subscription, self._create),
                    GetSubscription=(types.GetSubscriptionRequest, types.Subscription, self._get),
                    Pull=(types.PullRequest, types.PullResponse, self._pull),
                    Acknowledge=(types.AcknowledgeRequest, None, self._acknowledge),
                    ModifyAckDeadline=(types.ModifyAckDeadlineRequest, None, self._modify),
                ),
            ]
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    @staticmethod
    def _service(name: str, **methods: tuple[Any, Any, Callable[[Any, Any], Any]]) -> Any:
        def handler(request: Any, answer: Any, method: Callable[[Any, Any], Any]) -> Any:
            serialize = answer.serialize if answer else empty_pb2.Empty.SerializeToString
            return grpc.unary_unary_rpc_method_handler(
                method, request_deserializer=request.deserialize, response_serializer=serialize
            )

        handlers = {key: handler(*method) for key, method in methods.items()}
        return grpc.method_handlers_generic_handler(f"google.pubsub.v1.{name}", handlers)

    def _create(self, request: Any, _: Any) -> Any:
        with self._mutex:
            self._subscriptions[request.name] = request
            self._messages[request.name] = {}
        return request

    def _get(self, request: Any, context: Any) -> Any:
        if request.subscription not in self._subscriptions:
            context.abort(grpc.StatusCode.NOT_FOUND, "Subscription does not exist")
        return self._subscriptions[request.subscription]

    def _publish(self, request: Any, _: Any) -> Any:
        ids = []
        with self._mutex:
            for message in request.messages:
                message.message_id = str(next(self._numbers))
                message.publish_time = datetime.now(UTC)
                ids.append(message.message_id)
                for name, subscription in self._subscriptions.items():
                    if subscription.topic == request.topic:
                        self._messages[name][message.message_id] = Leased(message)
            self._mutex.notify_all()
        return types.PublishResponse(message_ids=ids)

    def _pull(self, request: Any, context: Any) -> Any:
        lease = self._get(request, context).ack_deadline_seconds or 10
        with self._mutex:
            while context.is_active():
                now = time.monotonic()
                free = [
                    leased
                    for leased in self._messages[request.subscription].values()
                    if leased.until <= now
                ][: request.max_messages]
                if free:
                    for leased in free:
                        leased.ack_id = f"{leased.message.message_id}-{next(self._numbers)}"
                        leased.until = now + lease
                    return types.PullResponse(
                        received_messages=[
                            types.ReceivedMessage(ack_id=leased.ack_id, message=leased.message)
                            for leased in free
                        ]
                    )
                self._mutex.wait(0.05)
        return types.PullResponse()

    def _acknowledge(self, request: Any, _: Any) -> Any:
        with self._mutex:
            messages = self._messages[request.subscription]
            for ack_id in request.ack_ids:
                found = messages.get(ack_id.partition("-")[0])
                if found is not None and found.ack_id == ack_id:
                    del messages[ack_id.partition("-")[0]]
        return empty_pb2.Empty()

    def _modify(self, request: Any, _: Any) -> Any:
        with self._mutex:
            for ack_id in request.ack_ids:
                found = self._messages[request.subscription].get(ack_id.partition("-")[0])
                if found is not None and found.ack_id == ack_id:
                    found.until = time.monotonic() + request.ack_deadline_seconds
        return empty_pb2.Empty()
