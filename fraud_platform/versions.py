"""What a later version of the platform stored is refused in one sentence, and never misread.

What belongs here: the sentence and its error. What does not: which form a thing has, which stands where it is stored.
A form is raised where a version of before would misread, and not for a field that it may pass over.
"""

import msgspec

LATER = "where a later version of the platform wrote it, use that one"
"""What to do about something that has fields which are not known here."""


class NewerVersionError(ValueError):
    """Something was stored by a later version of the platform; the message says what to do."""


class _Formed(msgspec.Struct):
    form: int = 1


_decode = msgspec.json.Decoder(_Formed).decode


def refuse_newer(what: str, form: int, known: int) -> None:
    """Raise NewerVersionError where something is of a form that is not known here. what: begins the sentence."""
    if form > known:
        raise NewerVersionError(
            f"{what} is of form {form}, and this version of the platform knows forms up to {known}: a later version "
            "wrote it, so use that one, or one later still"
        )


def refuse_newer_json(what: str, payload: bytes, known: int) -> None:
    """`refuse_newer` of a JSON object's `form`, 1 where it has none; before the rest is read, which may be of any
    shape. Raises msgspec.MsgspecError too."""
    refuse_newer(what, _decode(payload).form, known)
