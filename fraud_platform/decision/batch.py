"""`POST /v1/predict/batch`: many payments in one request, each decided as if it had come alone.

What belongs here: taking the request apart and putting the answers together. What does not: deciding (`engine`).
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from fraud_platform.decision.answer import Answer, PredictAnswer
from fraud_platform.decision.problem import ProblemDocument
from fraud_platform.decision.request import decode_json

MOST = 100


class BatchRequest(msgspec.Struct, frozen=True):
    """Payments to decide."""

    payments: Annotated[
        list[msgspec.Raw],
        Meta(
            min_length=1,
            max_length=MOST,
            description="Each as for /v1/predict.",
            extra_json_schema={"items": {"$ref": "#/components/schemas/PaymentRequest"}},
        ),
    ]


class BatchItem(msgspec.Struct, frozen=True):
    """What /v1/predict would have answered to one payment: `answer` with 200, else `problem`."""

    status: int
    answer: PredictAnswer | None = None
    problem: ProblemDocument | None = None


class BatchAnswer(msgspec.Struct, frozen=True):
    """The answers, in the order of the payments."""

    answers: list[BatchItem]


_decode = msgspec.json.Decoder(BatchRequest).decode


def parse_batch(body: bytes) -> list[bytes]:
    """The bodies of the payments. Raises MalformedBody, InvalidRequest."""
    return [bytes(payment) for payment in decode_json(_decode, body, inside=False).payments]


def batch_body(answers: list[Answer]) -> bytes:
    """The answer to a batch; the single answers are taken over byte for byte."""
    items = (
        b'{"status":%d,"%s":%b}' % (answer.status, b"answer" if answer.status == 200 else b"problem", answer.body)
        for answer in answers
    )
    return b'{"answers":[' + b",".join(items) + b"]}"
