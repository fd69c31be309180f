"""How much a worker takes on at once, and whose payments go without a model when it is more than that.

What belongs here: counting payments under way, by caller. What does not: how a payment is decided that goes without.
"""

from collections import Counter


class Capacity:
    """Shares a worker out among its callers. For one event loop.

    While fewer than `limit` payments are under way, everybody is served in full. Beyond, a caller is as long as it has
    no more than its share under way: `limit` by the number of callers with any. So one that sends too much sheds its
    own payments, never another's. A batch counts as its payments.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_caller: Counter[str] = Counter()
        self.under_way = 0
        """Payments that are being decided."""

    def enter(self, caller: str) -> bool:
        """Begin a payment; whether it is served in full. `leave` has to follow."""
        self.under_way += 1
        self._by_caller[caller] += 1
        if self.under_way <= self._limit:
            return True
        return self._by_caller[caller] <= self._limit // len(self._by_caller)

    def leave(self, caller: str) -> None:
        """End a payment."""
        self.under_way -= 1
        left = self._by_caller[caller] - 1
        if left:
            self._by_caller[caller] = left
        else:
            del self._by_caller[caller]
