"""Secrets, read from SSM by name and kept for five minutes; a rotated one is picked up without a deployment."""

import json
from typing import Any

from aws_lambda_powertools.utilities.parameters import SSMProvider

MAX_AGE_SECONDS = 300


class Parameters:
    """SSM SecureStrings."""

    def __init__(self, client: Any) -> None:
        self._provider = SSMProvider(boto3_client=client)

    def secret(self, name: str) -> str:
        """One secret."""
        value = self._provider.get(name, decrypt=True, max_age=MAX_AGE_SECONDS)
        if not isinstance(value, str):
            raise TypeError(f"parameter {name} holds no text")
        return value

    def secrets(self, name: str) -> tuple[str, ...]:
        """All that are active while one is being rotated: a JSON list, or separated by commas."""
        text = self.secret(name).strip()
        found = json.loads(text) if text.startswith("[") else text.split(",")
        return tuple(str(each).strip() for each in found if str(each).strip())
