"""Exports that are too large for an answer: objects that expire, behind links that end sooner."""

from dataclasses import dataclass
from typing import Any, Final

LINK_SECONDS: Final = 900


@dataclass(frozen=True, slots=True)
class ExportObjects:
    """One S3 bucket."""

    client: Any
    bucket: str

    def put(self, name: str, content: str) -> None:
        """Store a CSV."""
        self.client.put_object(
            Bucket=self.bucket, Key=name, Body=content.encode(), ContentType="text/csv; charset=utf-8"
        )

    def link(self, name: str) -> str:
        """Where it can be downloaded for a quarter of an hour, or until the credentials that signed it end.

        For the caller's eyes, never stored, never logged.
        """
        url: str = self.client.generate_presigned_url(
            "get_object", Params={"Bucket": self.bucket, "Key": name}, ExpiresIn=LINK_SECONDS
        )
        return url
