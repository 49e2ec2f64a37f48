"""How requests travel to Stripe."""

from pathlib import Path

import pytest

from monetize.adapters.stripe import client


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert client.session("https://api.stripe.com").proxies["https"] == "http://proxy.example:3128"
    monkeypatch.setenv("NO_PROXY", "api.stripe.com")
    assert not client.session("https://api.stripe.com").proxies


def test_passwords_of_the_home_folder_are_not_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import requests

    (tmp_path / "netrc").write_text("machine api.stripe.com login mallory password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    asked = requests.Request("GET", "https://api.stripe.com/v1/balance")
    assert "Authorization" not in client.session("https://api.stripe.com").prepare_request(asked).headers
