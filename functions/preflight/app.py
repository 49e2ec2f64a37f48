"""Answer a browser's preflight request. API Gateway adds the CORS headers, the handler only agrees."""

from typing import Any


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """204 whatever is asked: what may follow is decided by the API's CORS configuration."""
    del event, context
    return {"statusCode": 204}
