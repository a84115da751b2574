"""A delivery of a message that this worker does not answer with a run of its own.

All of it is called in the thread of Celery's event loop.
"""

from typing import Any

from celery.worker import state
from kombu.transport import virtual


def forget(request: Any) -> None:
    """Drop the delivery in this worker, and leave the message as it is in Redis.

    A message keeps its tag over all its deliveries. Whoever runs the task renews and acknowledges it by that; if that
    worker dies, it is delivered again when the visibility timeout has passed. An acknowledgement from here would take
    the message away from that worker.
    """
    state.task_ready(request)
    request.acknowledged = True
    message = request.message
    # Of the base class: the Redis transport's own would tell Redis.
    virtual.QoS.ack(message.channel.qos, message.delivery_tag)


def acknowledge(request: Any) -> None:
    """The task has its outcome already: the message goes."""
    state.task_ready(request)
    request.acknowledge()


def join(second: Any, first: Any) -> None:
    """`first` runs here, and `second` is another delivery of the same message: forget it, but not the first."""
    forget(second)
    # Both are listed under the task's id.
    state.requests[first.id] = first
