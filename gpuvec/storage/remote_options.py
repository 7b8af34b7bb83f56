"""`storage_options` as fsspec's users write them, in the words of obstore.

Every name is either understood or refused: a forgotten option would read and write elsewhere, or as
somebody else.
"""

import configparser
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gpuvec import errors

CONNECT_TIMEOUT = "5 s"
TIMEOUT = "120 s"  # of a whole request, with its body
_ASK_AGAIN = timedelta(minutes=10)

_S3 = {
    "key": "access_key_id",
    "secret": "secret_access_key",
    "token": "session_token",
    "endpoint_url": "endpoint",
    "region": "region",
    "region_name": "region",
    "requester_pays": "request_payer",
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "aws_region": "region",
    "aws_endpoint_url": "endpoint",
}
_S3_MORE = ("anon", "profile", "client_kwargs", "config_kwargs", "s3_additional_kwargs")
_S3_ADDITIONAL = {"ServerSideEncryption": "server_side_encryption", "SSEKMSKeyId": "sse_kms_key_id"}
_STYLES = ("auto", "path", "virtual")  # auto takes paths, which every server understands
_AZURE = {
    "account_name": "account_name",
    "account_key": "account_key",
    "sas_token": "sas_key",
    "tenant_id": "tenant_id",
    "client_id": "client_id",
    "client_secret": "client_secret",
    "endpoint": "endpoint",
}
_AZURE_MORE = ("anon", "connection_string")
_AZURE_CONNECTION = {
    "AccountName": "account_name",
    "AccountKey": "account_key",
    "BlobEndpoint": "endpoint",
    "SharedAccessSignature": "sas_key",
}
_GCS_MORE = ("token", "endpoint_url")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """What obstore's constructors take."""

    config: dict[str, Any] = field(default_factory=dict, repr=False)  # with keys
    client: dict[str, Any] = field(default_factory=dict)
    retry: dict[str, Any] = field(default_factory=dict)
    credentials: Callable[[], Any] | None = None


def s3_connection(options: Mapping[str, Any]) -> Connection:
    """Translate the options of s3fs: key, secret, token, anon, profile, endpoint_url and so on.

    Without a key, the usual places are asked: the environment, the files of the AWS tools, and the
    machine's role.
    """
    _check("s3", options, (*_S3, *_S3_MORE))
    config = _renamed(options, _S3)
    client: dict[str, Any] = {}
    _s3_client_kwargs(options.get("client_kwargs") or {}, config, client)
    retry = _s3_config_kwargs(options.get("config_kwargs") or {}, config, client)
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if os.environ.get(name):
            config.setdefault("endpoint", os.environ[name])
    extra = options.get("s3_additional_kwargs") or {}
    _check("s3", extra, _S3_ADDITIONAL, inside="s3_additional_kwargs")
    config |= _renamed(extra, _S3_ADDITIONAL)
    credentials = None
    if options.get("anon"):
        config["skip_signature"] = True
    elif "access_key_id" not in config:
        credentials = _from_files(options.get("profile"), config)
    return replace(_finished("s3", config, client, credentials), retry=retry)


def gcs_connection(options: Mapping[str, Any]) -> Connection:
    """Translate the options of gcsfs: token (a file, a dict, or "anon"), endpoint_url."""
    import json

    _check("gs", options, _GCS_MORE)
    config: dict[str, Any] = {}
    token = options.get("token")
    if token == "anon":
        config["skip_signature"] = True
    elif isinstance(token, Mapping):
        config["service_account_key"] = json.dumps(dict(token))
    elif isinstance(token, str | os.PathLike) and str(token) not in ("google_default", "cloud"):
        config["application_credentials"] = os.fspath(token)
    if options.get("endpoint_url"):
        config["base_url"] = options["endpoint_url"]
    return _finished("gs", config, {}, None)


def azure_connection(options: Mapping[str, Any]) -> Connection:
    """Translate the options of adlfs: account_name, account_key, connection_string, sas_token."""
    _check("az", options, (*_AZURE, *_AZURE_MORE))
    config: dict[str, Any] = {}
    for part in str(options.get("connection_string") or "").split(";"):
        name, _, value = part.partition("=")
        if name in _AZURE_CONNECTION:
            config[_AZURE_CONNECTION[name]] = value
    config |= _renamed(options, _AZURE)
    if options.get("anon"):
        config["skip_signature"] = True
    return _finished("az", config, {}, None)


def _finished(
    scheme: str,
    config: dict[str, Any],
    client: dict[str, Any],
    credentials: Callable[[], Any] | None,
) -> Connection:
    """Add what holds for all; whoever writes http:// into an endpoint wants no TLS."""
    endpoint = str(config.get("endpoint") or config.get("base_url") or "")
    if endpoint.startswith("http://"):
        client["allow_http"] = True
    if scheme == "s3" and endpoint:
        named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        config.setdefault("region", named or "us-east-1")
    client = {"connect_timeout": CONNECT_TIMEOUT, "timeout": TIMEOUT, **client}
    return Connection(config=config, client=client, credentials=credentials)


def _check(scheme: str, options: Mapping[str, Any], known: Iterable[str], inside: str = "") -> None:
    names = list(known)
    unknown = sorted(set(options) - set(names))
    if unknown:
        raise errors.unknown_storage_option(scheme, unknown[0], names, inside=inside)


def _renamed(options: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names[k]: v for k, v in options.items() if k in names and v is not None}


def _s3_client_kwargs(
    given: Mapping[str, Any], config: dict[str, Any], client: dict[str, Any]
) -> None:
    _check("s3", given, (*_S3, "verify"), inside="client_kwargs")
    config |= _renamed(given, _S3)
    verify = given.get("verify")
    if verify is False:
        client["allow_invalid_certificates"] = True
    elif isinstance(verify, str | os.PathLike):
        client["root_certificate"] = Path(verify).read_bytes()


def _s3_config_kwargs(
    given: Mapping[str, Any], config: dict[str, Any], client: dict[str, Any]
) -> dict[str, Any]:
    known = ("connect_timeout", "read_timeout", "retries", "s3")
    _check("s3", given, known, inside="config_kwargs")
    for name, told in (("connect_timeout", "connect_timeout"), ("read_timeout", "timeout")):
        if given.get(name) is not None:
            client[told] = f"{round(1000 * float(given[name]))} ms"
    style = given.get("s3") or {}
    _check("s3", style, ("addressing_style",), inside='config_kwargs["s3"]')
    if "addressing_style" in style:
        _check("s3", {style["addressing_style"]: 0}, _STYLES, inside="addressing_style")
        config["virtual_hosted_style_request"] = style["addressing_style"] == "virtual"
    retries = given.get("retries") or {}
    _check("s3", retries, ("max_attempts",), inside='config_kwargs["retries"]')
    return {"max_retries": int(n) - 1} if (n := retries.get("max_attempts")) else {}


def _from_files(profile: str | None, config: dict[str, Any]) -> Callable[[], Any] | None:
    """Look for a profile in the files of the AWS tools; note keys and region in `config`.

    What is more than a pair of keys, such as single sign-on, is left to botocore, if there is one.
    """
    wanted = profile or os.environ.get("AWS_PROFILE")
    if wanted is None and "AWS_ACCESS_KEY_ID" in os.environ:
        return None
    name = wanted or "default"
    found = _profile(name)
    if "region" in found:
        config.setdefault("region", found["region"])
    if "aws_access_key_id" in found and "aws_secret_access_key" in found:
        config["access_key_id"] = found["aws_access_key_id"]
        config["secret_access_key"] = found["aws_secret_access_key"]
        if "aws_session_token" in found:
            config["session_token"] = found["aws_session_token"]
        return None
    if wanted is None and not found:
        return None
    return _from_botocore(name, told=wanted is not None)


def _profile(name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    home = Path.home() / ".aws"
    config_file = os.environ.get("AWS_CONFIG_FILE", home / "config")
    keys_file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials")
    section = name if name == "default" else f"profile {name}"
    for path, title in ((config_file, section), (keys_file, name)):
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(path)
        if parser.has_section(title):
            found |= parser[title]
    return found


def _from_botocore(name: str, *, told: bool) -> Callable[[], Any] | None:
    """Return what asks botocore for the keys of a profile, again when they are old."""
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except ImportError:
        if not told:
            return None
        raise errors.profile_without_keys(name, "botocore is not installed") from None
    try:
        credentials = Session(profile=name).get_credentials()
    except BotoCoreError as error:
        raise errors.profile_without_keys(name, str(error)) from error
    if credentials is None:
        raise errors.profile_without_keys(name, "botocore finds none either")

    def fetch() -> dict[str, Any]:
        keys = credentials.get_frozen_credentials()
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": datetime.now(UTC) + _ASK_AGAIN,
        }

    return fetch
