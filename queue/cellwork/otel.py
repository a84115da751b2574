"""OpenTelemetry's tracer, where this process has a use for one: imported then, and not before."""

import functools
import logging
import os
import sys
import threading
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider

logger = logging.getLogger("cellwork")

#: Where one of these is set, spans are to go somewhere.
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

#: Entry points of OTLP's exporters by their protocol, the better one first where none is named.
_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}

_making = threading.Lock()


def tracer() -> "Tracer | None":
    """Of the provider that the application has set, else of one made as OTEL_* ask. None: nobody wants spans."""
    api = sys.modules.get("opentelemetry.trace")
    if api is not None and not isinstance(provider := api.get_tracer_provider(), api.ProxyTracerProvider):
        return _tracer(provider)
    own = _made()
    return None if own is None else _tracer(own)


@functools.cache
def _tracer(provider: "TracerProvider") -> "Tracer":
    return provider.get_tracer("cellwork")


def _made() -> "TracerProvider | None":
    # Two threads that send their first tasks at once must not make two, so that the cache alone would not do.
    if _own.cache_info().currsize:
        return _own()
    with _making:
        return _own()


@functools.cache
def _own() -> "TracerProvider | None":
    """A provider of ours, which is not made the application's: that may still set one."""
    if not (names := _exporters()):
        return None
    try:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporters = [_exporter(name) for name in names]
    except (ImportError, LookupError) as error:
        logger.warning(
            "the environment asks for traces (OTEL_…), and there are none: %s; pip install 'cellwork[otel]'", error
        )
        return None
    # Sampler, resource and limits are what OTEL_* say. It flushes at the process's exit.
    provider = TracerProvider()
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter()))
    return provider


def _exporters() -> list[str]:
    """Names of exporters, as OpenTelemetry's specification of its environment variables has them."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    default = "otlp" if any(os.environ.get(name) for name in _ENDPOINTS) else "none"
    names = (os.environ.get("OTEL_TRACES_EXPORTER") or default).split(",")
    return [name.strip() for name in names if name.strip() not in ("", "none")]


def _exporter(name: str) -> Any:
    """The class.

    Raises:
        LookupError: no installed package has it.
    """
    asked = [name]
    if name == "otlp":
        said = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        asked = [_PROTOCOLS.get(said, said)] if said else list(_PROTOCOLS.values())
    for one in asked:
        for found in entry_points(group="opentelemetry_traces_exporter", name=one):
            return found.load()
    raise LookupError(f"no installed package has an exporter of the name {' or '.join(asked)}")
