import pytest

from gpuvec.errors import QueryError, UnsupportedError
from gpuvec.storage.open import open_store
from gpuvec.storage.remote_options import azure_connection, gcs_connection, s3_connection


@pytest.fixture(autouse=True)
def no_aws_here(monkeypatch, tmp_path):
    for name in ("PROFILE", "ACCESS_KEY_ID", "REGION", "DEFAULT_REGION", "ENDPOINT_URL"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_s3_options_are_those_of_s3fs():
    made = s3_connection(
        {
            "key": "k",
            "secret": "s",
            "token": "t",
            "endpoint_url": "http://host:9000",
            "client_kwargs": {"region_name": "eu-central-1", "verify": False},
            "config_kwargs": {
                "connect_timeout": 2,
                "s3": {"addressing_style": "virtual"},
                "retries": {"max_attempts": 3},
            },
            "s3_additional_kwargs": {"ServerSideEncryption": "AES256"},
        }
    )
    assert made.config == {
        "access_key_id": "k",
        "secret_access_key": "s",
        "session_token": "t",
        "endpoint": "http://host:9000",
        "region": "eu-central-1",
        "virtual_hosted_style_request": True,
        "server_side_encryption": "AES256",
    }
    assert made.retry == {"max_retries": 2}
    assert made.client["allow_http"] is True
    assert made.client["allow_invalid_certificates"] is True
    assert made.client["connect_timeout"] == "2000 ms"


def test_only_an_endpoint_that_says_http_goes_without_tls():
    assert "allow_http" not in s3_connection({"endpoint_url": "https://host", "anon": True}).client
    assert s3_connection({"anon": True}).config == {"skip_signature": True}


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"secrte": "s"}, 'no "secrte". Did you mean "secret"'),
        (
            {"client_kwargs": {"region": "x", "regoin_name": "y"}},
            'client_kwargs of s3:// has no "r',
        ),
        ({"config_kwargs": {"signature": 3}}, 'config_kwargs of s3:// has no "signature"'),
        ({"config_kwargs": {"s3": {"payload": 1}}}, 'no "payload"'),
        ({"s3_additional_kwargs": {"ACL": "public"}}, 'no "ACL"'),
    ],
)
def test_unknown_options_are_refused_by_name(options, wrong):
    with pytest.raises(UnsupportedError) as caught:
        open_store("s3://bucket/shop", options)
    assert caught.value.code == "GV-536"
    assert wrong in caught.value.message


@pytest.mark.parametrize("url", ["gs://bucket", "az://container", "abfs://container"])
def test_options_of_other_stores_are_refused_too(url):
    with pytest.raises(UnsupportedError, match="endpoint_uri") as caught:
        open_store(url, {"endpoint_uri": "x"})
    assert caught.value.code == "GV-536"


def test_a_profile_is_read_from_the_files_of_the_aws_tools(tmp_path):
    (tmp_path / "config").write_text("[default]\nregion = r0\n[profile work]\nregion = r1\n")
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = a0\naws_secret_access_key = s%0\n"
        "[work]\naws_access_key_id = a1\naws_secret_access_key = s1\naws_session_token = t1\n"
    )
    assert s3_connection({}).config == {
        "access_key_id": "a0",
        "secret_access_key": "s%0",
        "region": "r0",
    }
    assert s3_connection({"profile": "work", "region": "mine"}).config == {
        "access_key_id": "a1",
        "secret_access_key": "s1",
        "session_token": "t1",
        "region": "mine",
    }


def test_an_endpoint_in_the_environment_counts_unless_one_is_given(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all:1")
    made = s3_connection({"anon": True})
    assert made.config["endpoint"] == "http://all:1"
    assert made.client["allow_http"] is True
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3:1")
    assert s3_connection({"anon": True}).config["endpoint"] == "http://s3:1"
    mine = s3_connection({"anon": True, "endpoint_url": "https://mine"})
    assert mine.config["endpoint"] == "https://mine"
    assert "allow_http" not in mine.client


def test_a_key_in_the_environment_goes_before_the_files(tmp_path, monkeypatch):
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = a0\naws_secret_access_key = s0\n"
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from the environment")
    assert s3_connection({}).config == {}


def test_a_profile_that_gives_no_key_is_an_error(tmp_path):
    with pytest.raises(UnsupportedError, match="nowhere") as caught:
        s3_connection({"profile": "nowhere"})
    assert caught.value.code == "GV-537"


def test_what_is_no_pair_of_keys_is_left_to_botocore(tmp_path):
    program = 'echo \'{"Version": 1, "AccessKeyId": "a9", "SecretAccessKey": "s9"}\''
    (tmp_path / "tool").write_text(f"#!/bin/sh\n{program}\n")
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "config").write_text(f"[profile p]\ncredential_process = {tmp_path}/tool\n")
    found = s3_connection({"profile": "p"}).credentials()
    assert (found["access_key_id"], found["secret_access_key"], found["token"]) == (
        "a9",
        "s9",
        None,
    )


def test_gcs_options_are_those_of_gcsfs():
    assert gcs_connection({"token": "anon"}).config == {"skip_signature": True}
    assert gcs_connection({"token": "key.json"}).config == {"application_credentials": "key.json"}
    assert gcs_connection({"token": "google_default"}).config == {}
    made = gcs_connection({"token": {"type": "service_account"}, "endpoint_url": "http://h:1"})
    assert made.config == {
        "service_account_key": '{"type": "service_account"}',
        "base_url": "http://h:1",
    }
    assert made.client["allow_http"] is True


def test_azure_options_are_those_of_adlfs():
    text = "DefaultEndpointsProtocol=http;AccountName=n;AccountKey=a==;BlobEndpoint=http://h:1/n;"
    assert azure_connection({"connection_string": text}).config == {
        "account_name": "n",
        "account_key": "a==",
        "endpoint": "http://h:1/n",
    }
    assert azure_connection({"account_name": "n", "sas_token": "?sv=1"}).config == {
        "account_name": "n",
        "sas_key": "?sv=1",
    }


def test_values_that_make_no_connection_are_an_error():
    with pytest.raises(QueryError, match="storage_options of s3") as caught:
        open_store("s3://bucket", {"key": "k", "secret": "s", "requester_pays": "perhaps"})
    assert caught.value.code == "GV-515"


def test_the_same_place_has_one_identity_however_it_is_written():
    options = {"key": "k", "secret": "s"}
    one = open_store("s3://bucket/a//b/", options)
    assert one.identity == open_store("S3A://bucket/a/b", {"anon": True}).identity
    assert one.identity != open_store("s3://bucket/a", options).identity
    assert (
        one.identity
        != open_store("s3://bucket/a/b", {**options, "endpoint_url": "http://h"}).identity
    )
