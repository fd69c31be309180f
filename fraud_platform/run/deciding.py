"""Who decides payments in a home, and why, in a few sentences for the screen.

What belongs here: reading the release, the ledger and the last verdict. What does not: changing any of them.
"""

from pathlib import Path

from fraud_platform.model.bundle import Bundle, BundleError, NoReleaseError, current_release
from fraud_platform.model.candidate import candidates
from fraud_platform.model.gate import VERDICT_FILE, read_verdict
from fraud_platform.model.ledger import read_ledger
from fraud_platform.settings import Settings

WITHOUT_MODEL = "No model decides yet, so the rules do."
REMEDY = (
    "The platform stays up and each training tries again. What helps: more days of history, more labels, or a mapping "
    "that names more columns; `fraud-platform evaluate` shows how well models do on what is there."
)


def who_decides(settings: Settings) -> str:
    """The release in force with its kind and why it is, or that rules decide, why, and what to do."""
    try:
        bundle = Bundle.load(current_release(settings.home))
    except NoReleaseError:
        return " ".join([WITHOUT_MODEL, *_refusal(settings.home), REMEDY])
    except BundleError as error:
        return f"The release in force cannot be used: {error}"
    who = f"{bundle.name} decides, {bundle.kind_of_model.title}"
    for line in reversed(read_ledger(settings.home)):
        if line["what"] == "champion" and line["to"] == bundle.name:
            return f"{who}: {line['why']}."
    return f"{who}."


def _refusal(home: Path) -> list[str]:
    """What the gate said of the newest candidate; nothing where none was judged."""
    judged = [folder / VERDICT_FILE for folder in candidates(home) if (folder / VERDICT_FILE).exists()]
    if not judged:
        return []
    verdict = read_verdict(max(judged, key=lambda path: path.stat().st_mtime_ns).parent)
    return [] if verdict is None else [f"The gate passed none: {'; '.join(verdict.reasons)}."]
