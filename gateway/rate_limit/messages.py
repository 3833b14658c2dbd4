"""
The protocol's messages, as far as they are used here.

Made from this table, because the packages that have all of Envoy's also have top-level
packages that are OpenTelemetry's and Google's: decision 0016. Names, numbers and types
are those of envoy/service/ratelimit/v3/rls.proto and
envoy/extensions/common/ratelimit/v3/ratelimit.proto; what is not listed is skipped.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import duration_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

SERVICE: Final = "envoy.service.ratelimit.v3.RateLimitService"
METHOD: Final = "ShouldRateLimit"

# RateLimitResponse.Code.
OK: Final = 1
OVER_LIMIT: Final = 2
# RateLimitResponse.RateLimit.Unit.
UNITS: Final = {"second": 1, "minute": 2, "hour": 3, "day": 4, "month": 5}

_PACKAGE: Final = "llmtune.ratelimit"
_SCALARS: Final = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    # On the wire an enum is its number.
    "enum": FieldDescriptorProto.TYPE_INT32,
}
# By message: field, number, type. A star stands for a repeated one.
_FIELDS: Final[dict[str, tuple[tuple[str, int, str], ...]]] = {
    "Entry": (("key", 1, "string"), ("value", 2, "string")),
    "Descriptor": (
        ("entries", 1, "*Entry"),
        ("hits_addend", 3, "google.protobuf.UInt64Value"),
    ),
    "Request": (
        ("domain", 1, "string"),
        ("descriptors", 2, "*Descriptor"),
        ("hits_addend", 3, "uint32"),
    ),
    "RateLimit": (
        ("requests_per_unit", 1, "uint32"),
        ("unit", 2, "enum"),
        ("name", 3, "string"),
    ),
    "Status": (
        ("code", 1, "enum"),
        ("current_limit", 2, "RateLimit"),
        ("limit_remaining", 3, "uint32"),
        ("duration_until_reset", 4, "google.protobuf.Duration"),
    ),
    "HeaderValue": (("key", 1, "string"), ("value", 2, "string")),
    "Response": (
        ("overall_code", 1, "enum"),
        ("statuses", 2, "*Status"),
        ("response_headers_to_add", 3, "*HeaderValue"),
        ("raw_body", 5, "bytes"),
    ),
}


def _file() -> FileDescriptorProto:
    file = FileDescriptorProto(
        name="llmtune/ratelimit.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[duration_pb2.DESCRIPTOR.name, wrappers_pb2.DESCRIPTOR.name],
    )
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            _add(message.field.add(name=field, number=number), kind)
    return file


def _add(field: FieldDescriptorProto, kind: str) -> None:
    is_repeated = kind.startswith("*")
    field.label = (
        FieldDescriptorProto.LABEL_REPEATED
        if is_repeated
        else FieldDescriptorProto.LABEL_OPTIONAL
    )
    kind = kind.removeprefix("*")
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        return
    field.type = FieldDescriptorProto.TYPE_MESSAGE
    field.type_name = f".{kind}" if "." in kind else f".{_PACKAGE}.{kind}"


def _classes() -> dict[str, Any]:
    # A pool of our own: whatever else has Envoy's messages does not meet these.
    pool = DescriptorPool()
    for needed in (duration_pb2, wrappers_pb2):
        pool.AddSerializedFile(needed.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(_file().SerializeToString())
    return {
        name: GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _FIELDS
    }


_MADE: Final = _classes()
Request: Final[Any] = _MADE["Request"]
Response: Final[Any] = _MADE["Response"]
