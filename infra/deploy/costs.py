"""What a month on AWS costs: `python -m infra.deploy.costs` writes the table of docs/deploy.md.

Reckoned from AWS's list prices and from assumptions about a chat, not measured on AWS. Without the free tier.
"""

import re
import sys
from dataclasses import dataclass
from decimal import Decimal

from infra.package.__main__ import ROOT

PAGE = ROOT / "docs" / "deploy.md"
TABLE = re.compile(r"(<!-- costs -->\n).*?(\n<!-- end of costs -->)", re.DOTALL)
VOLUMES = (1_000, 100_000, 1_000_000)

# List prices of us-east-1 in US dollars: https://aws.amazon.com/lambda/pricing/, /cloudwatch/pricing/ and the like, as
# quoted in copies of October 2025 to June 2026. Lambda costs the same in ca-central-1; logs and traffic may cost more.
GB_SECOND = Decimal("0.0000133334")  # arm64, the first tier
REQUEST = Decimal("0.20") / 1_000_000
LOG_GB = Decimal("0.50")
METRIC = Decimal("0.30")  # a month, of the first ten thousand
ALARM = Decimal("0.10")  # for each metric that an alarm reads
SECRET = Decimal("0.40")
SCHEDULED = Decimal("1.00") / 1_000_000
TRAFFIC_GB = Decimal("0.09")

# Of serverless.yml; a test compares them with the template.
CHAT_GB = Decimal(1)
OTHER_GB = Decimal("0.5")
SECRETS = 6

# Assumptions.
CHAT_S = Decimal(9)  # an answer: two steps and one round of tools
OTHER_REQUESTS = 4  # for each chat: usage, messages, conversations' changes, checkout
OTHER_S = Decimal("0.1")
JOBS = 2 * 43_800 + 2 * 8_760 + 2_920 + 730 + 300  # a month of infra/resources/schedules.yml
JOB_S = Decimal("0.5")
LOG_KB = Decimal(4)  # a request's lines, with Lambda's own
STREAM_KB = Decimal(100)  # a chat with what the page loads beside it
METRICS = 30  # ours; AWS has its own for nothing
ALARM_METRICS = 40  # the alarms over all functions read several metrics each


@dataclass(frozen=True, slots=True)
class Month:
    """The costs of a month in US dollars."""

    functions: Decimal
    logs: Decimal
    traffic: Decimal
    fixed: Decimal  # metrics, alarms, secrets, and the jobs with their schedules

    @property
    def total(self) -> Decimal:
        """All of them."""
        return self.functions + self.logs + self.traffic + self.fixed


def month(chats: int) -> Month:
    """The costs of a month with so many chats."""
    others = chats * OTHER_REQUESTS
    seconds = chats * CHAT_S * CHAT_GB + others * OTHER_S * OTHER_GB
    jobs = JOBS * (JOB_S * OTHER_GB * GB_SECOND + REQUEST + SCHEDULED)
    return Month(
        functions=seconds * GB_SECOND + (chats + others) * REQUEST,
        logs=(chats + others + JOBS) * LOG_KB / 1_000_000 * LOG_GB,
        traffic=chats * STREAM_KB / 1_000_000 * TRAFFIC_GB,
        fixed=METRICS * METRIC + ALARM_METRICS * ALARM + SECRETS * SECRET + jobs,
    )


def table() -> str:
    """The table of docs/deploy.md."""
    lines = ["| chats a month | functions | logs | traffic | fixed | AWS in total | for a chat |"]
    lines.append("| --- " * 7 + "|")
    for chats in VOLUMES:
        costs = month(chats)
        cells = [costs.functions, costs.logs, costs.traffic, costs.fixed, costs.total]
        amounts = " | ".join(f"{cell:,.2f}" for cell in cells)
        lines.append(f"| {chats:,} | {amounts} | {costs.total / chats:.5f} |")
    return "\n".join(lines)


def updated(page: str) -> str:
    """The page with today's table."""
    return TABLE.sub(lambda found: f"{found[1]}{table()}{found[2]}", page)


def main() -> int:
    """Write the table."""
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
