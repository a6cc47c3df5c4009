"""A client of the Messages API, from the SDK's own environment."""

from __future__ import annotations

import anthropic

from evalgen.errors import GraderUnavailable


def connect(request_timeout_s: float) -> anthropic.AsyncAnthropic:
    """A client from the SDK's own environment, without its retries: ours tell a spend cap from a rate limit.

    Sends nothing. Raises `GraderUnavailable` where no request could ever be sent, so a driver can call it
    before any work is done.
    """
    try:
        client = anthropic.AsyncAnthropic(
            max_retries=0,
            timeout=request_timeout_s,
            # The default transport looks at every connection for each request, and takes more than twice the CPU.
            http_client=anthropic.DefaultAioHttpClient(),
            open_telemetry=False,  # an eighth of what a request costs the CPU, and nobody collects it
        )
    except anthropic.AnthropicError as error:
        name = type(error).__name__
        raise GraderUnavailable(f"the anthropic SDK cannot load its credentials ({name})") from None
    headers = {name.lower(): value for name, value in client.default_headers.items()}
    if client.credentials is None and not headers.keys() & {"authorization", "x-api-key"}:
        raise GraderUnavailable("no API key for the grader: set ANTHROPIC_API_KEY")
    for name, secret in (("ANTHROPIC_API_KEY", client.api_key), ("ANTHROPIC_AUTH_TOKEN", client.auth_token)):
        if secret is not None and not all("!" <= char <= "~" for char in secret):
            raise GraderUnavailable(f"{name} holds a space, a line break or another stray character")
    if client.base_url.scheme not in ("http", "https"):
        raise GraderUnavailable(f"ANTHROPIC_BASE_URL is no http or https address: {str(client.base_url)!r}")
    return client
