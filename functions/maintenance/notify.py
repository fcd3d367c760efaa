"""Sends a report to the operators through the SNS topic of the alarms: Lambda discards what a scheduled job returns."""

from collections.abc import Sequence

# SNS takes 256 KB of message and 100 ASCII characters of subject.
# https://docs.aws.amazon.com/sns/latest/api/API_Publish.html
MESSAGE_BYTES = 200_000


def send(topic_arn: str, subject: str, report: Sequence[str]) -> None:
    """Publish a text. Raises what boto3 raises, so that Lambda runs the job again."""
    # Lambda's runtime has boto3. It is not in the artifact: it would add 15 MB for this one call.
    import boto3

    text = "\n".join(report).encode()
    if len(text) > MESSAGE_BYTES:
        text = text[:MESSAGE_BYTES] + b"\n(cut here: run the job by hand to see everything)"
    message = text.decode(errors="ignore")
    sns = boto3.client("sns")
    sns.publish(TopicArn=topic_arn, Subject=subject[:100], Message=message)
