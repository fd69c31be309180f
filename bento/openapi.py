"""The OpenAPI document: BentoML's own, with the contract's exact schemas and its problem documents.

What belongs here: turning the domain's types into OpenAPI 3.0. What does not: any field's meaning, which stands at the
type. BentoML's generator knows neither `null` as a type nor answers other than its own errors.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from fraud_platform import VERSION
from fraud_platform.decision.answer import ExplainAnswer, PredictAnswer
from fraud_platform.decision.batch import BatchAnswer, BatchRequest
from fraud_platform.decision.explain import DecisionReference
from fraud_platform.decision.feedback import FeedbackAnswer, FeedbackRequest
from fraud_platform.decision.policy_change import PolicyChange
from fraud_platform.decision.policy_desk import PolicyAnswer
from fraud_platform.decision.problem import ProblemDocument
from fraud_platform.decision.reported import ReportAnswer, ReportRequest
from fraud_platform.decision.request import PaymentRequest
from fraud_platform.decision.workers import ReloadAnswer

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"

_INFO = {
    "title": "Fraud decisions",
    "version": VERSION,
    "description": "Decides payments, explains decisions and takes labels. A valid payment always gets a decision; "
    "`served_by` says what it stands on.",
}

_ALWAYS = {
    400: "The body is not JSON.",
    401: "No API key, or one that is unknown or revoked.",
    403: "The API key does not allow this, or a web page of somebody else asks.",
    408: "The request did not arrive in time.",
    413: "The body is over 64 KiB.",
    415: "The body is not declared as application/json.",
    422: "A field breaks the contract; `field` names it.",
    503: "Something on this side failed; the same body may be sent again.",
}


@dataclass(frozen=True)
class _Route:
    """One POST of the contract. requests: any of these types; none for a body that is not read."""

    path: str
    requests: tuple[type, ...]
    status: int
    answer: type
    problems: dict[int, str]
    summary: str = ""


_ROUTES = (
    _Route(
        "/v1/predict",
        (PaymentRequest,),
        200,
        PredictAnswer,
        {409: "The transaction_id was decided within 24 hours for another payment."},
    ),
    _Route(
        "/v1/predict/batch",
        (BatchRequest,),
        200,
        BatchAnswer,
        {},
        "Decide up to 100 payments, each as if it had come alone.",
    ),
    _Route(
        "/v1/explain",
        (PaymentRequest, DecisionReference),
        200,
        ExplainAnswer,
        {
            404: "No decision of the caller is kept under this transaction_id, or no model made it.",
            410: "The model that decided is no longer kept.",
        },
    ),
    _Route(
        "/v1/feedback",
        (FeedbackRequest,),
        202,
        FeedbackAnswer,
        {
            404: "No decision of the caller is kept under this transaction_id: send its transaction_date as well.",
            429: "More labels than one caller may send, or than may wait for payments that nobody knows.",
        },
        "Send back what was learned about a payment.",
    ),
    _Route(
        "/v1/report",
        (ReportRequest,),
        200,
        ReportAnswer,
        {},
        "Report a decision that the client made by the rules while no service answered.",
    ),
    _Route(
        "/v1/admin/policy",
        (PolicyChange,),
        200,
        PolicyAnswer,
        {409: "The policy is at another version than `expected_version`."},
        "Change thresholds, rule limits, lists or the kill switch.",
    ),
    _Route("/v1/admin/reload", (), 200, ReloadAnswer, {}, "Make every worker look at the registry now."),
)
_TYPES = (*{kind: None for route in _ROUTES for kind in (*route.requests, route.answer)}, ProblemDocument)


def components() -> Json:
    """The contract's types as OpenAPI 3.0 schemas, by name."""
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template=_REF)
    return {name: _openapi(schema) for name, schema in schemas.items()}


def inlined(kind: type) -> Json:
    """One type as a JSON Schema without references, for BentoML's own description of a method."""
    (schema,), definitions = msgspec.json.schema_components((kind,), ref_template="{name}")

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve({**definitions[node["$ref"]], **{k: v for k, v in node.items() if k != "$ref"}})
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(item) for item in node] if isinstance(node, list) else node

    made: Json = _openapi(resolve(schema))
    return made


def _openapi(node: Any) -> Any:
    """JSON Schema as OpenAPI 3.0 takes it: `nullable` in the place of the type null, exclusive bounds as flags."""
    if isinstance(node, list):
        return [_openapi(item) for item in node]
    if not isinstance(node, dict):
        return node
    schema = {key: _openapi(value) for key, value in node.items() if key not in ("anyOf", "const")}
    if "const" in node:
        schema["enum"] = [node["const"]]
    for bound in ("minimum", "maximum"):
        exclusive = f"exclusive{bound.capitalize()}"
        if exclusive in schema:
            schema |= {bound: schema[exclusive], exclusive: True}
    options = node.get("anyOf")
    if options:
        real = [_openapi(option) for option in options if option != {"type": "null"}]
        nullable = len(real) < len(options)
        if len(real) == 1 and "$ref" not in real[0]:
            schema = {**real[0], **schema}
        else:
            schema["allOf" if len(real) == 1 else "anyOf"] = real
        if nullable:
            schema["nullable"] = True
    if schema.get("default", ...) is None:
        del schema["default"]
    return schema


def _reference(kind: type) -> Json:
    return {"$ref": _REF.format(name=kind.__name__)}


def document(base: Json) -> bytes:
    """BentoML's document (`Service.openapi_spec.asdict()`) under the service's own title, with the contract's routes
    described exactly; JSON."""
    spec: Json = msgspec.json.decode(msgspec.json.encode(base)) | {"info": _INFO}
    # BentoML's own schemas are of its own errors and tasks, which no route here answers with
    spec["components"]["schemas"] = components()
    problems = {"application/problem+json": {"schema": _reference(ProblemDocument)}}
    for route in _ROUTES:
        operation = spec["paths"].setdefault(route.path, {"post": {"summary": route.summary}})["post"]
        if route.requests:
            schemas = [_reference(kind) for kind in route.requests]
            body = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
        operation["responses"] = {
            str(route.status): {
                "description": (route.answer.__doc__ or "").strip(),
                "content": {"application/json": {"schema": _reference(route.answer)}},
            },
            **{
                str(status): {"description": text, "content": problems}
                for status, text in sorted((_ALWAYS | route.problems).items())
            },
        }
    return msgspec.json.encode(spec)
