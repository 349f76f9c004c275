"""gpu.yaml on an AWS that moto imitates: Ray's own code prepares the account and starts the file's machines.

What AWS itself would refuse, and what happens on a machine once it runs, this cannot show.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.aws.utils import client_cache, resource_cache
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from tests.running.conftest import ROOT

REGION = "us-east-1"
SSH = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "203.0.113.7/32"}]}


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An account as cluster/README.md prepares it, and its security group."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "made-up")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray keeps the key of the cluster there
    (tmp_path / ".ssh").mkdir()
    with mock_aws():
        ec2, iam = boto3.client("ec2"), boto3.client("iam")
        [vpc] = ec2.describe_vpcs(Filters=[{"Name": "isDefault", "Values": ["true"]}])["Vpcs"]
        group = ec2.create_security_group(GroupName="slowfast", Description="Ray", VpcId=vpc["VpcId"])["GroupId"]
        members = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[SSH, members])
        for name in ("slowfast-head", "slowfast-worker"):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
            iam.create_instance_profile(InstanceProfileName=name)
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        resource_cache.cache_clear()  # Ray's clients are of an earlier imitation otherwise
        client_cache.cache_clear()
        yield group
    resource_cache.cache_clear()
    client_cache.cache_clear()


def filled_in(group: str) -> dict[str, Any]:
    """gpu.yaml as a user leaves it, as `ray up` reads it."""
    image = boto3.client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    text = (ROOT / "cluster" / "gpu.yaml").read_text()
    text = text.replace("ami-FILL_IN", image).replace("sg-FILL_IN", group).replace("FILL_IN_BUCKET", "bucket")
    assert ": FILL_IN" not in text
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    return config


def rules_of(group: str) -> list[dict[str, Any]]:
    return boto3.client("ec2").describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]


def groups() -> set[str]:
    return {each["GroupId"] for each in boto3.client("ec2").describe_security_groups()["SecurityGroups"]}


def test_ray_takes_the_account_as_it_is_and_opens_nothing(account: str) -> None:
    rules, before = rules_of(account), groups()

    config = bootstrap_aws(filled_in(account))

    assert rules_of(account) == rules
    assert groups() == before
    assert {role["RoleName"] for role in boto3.client("iam").list_roles()["Roles"]} == {
        "slowfast-head", "slowfast-worker",
    }  # fmt: skip
    assert Path(config["auth"]["ssh_private_key"]).stat().st_mode & 0o077 == 0
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"] == [account]
        assert len(kind["node_config"]["SubnetIds"]) == 4  # one in each zone that the file names


def test_a_group_of_rays_own_would_be_open_to_everybody(account: str) -> None:
    # What the file's own group is there for: seen once, so that the test above can fail.
    config = filled_in(account)
    for kind in config["available_node_types"].values():
        del kind["node_config"]["SecurityGroupIds"]
    before = groups()

    bootstrap_aws(config)

    [made] = groups() - before
    assert "0.0.0.0/0" in str(rules_of(made))


def test_the_machines_are_what_the_file_says_and_end(account: str) -> None:
    config = bootstrap_aws(filled_in(account))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    started: dict[str, dict[str, Any]] = {}
    for name, kind in config["available_node_types"].items():
        tags = {
            TAG_RAY_NODE_KIND: "head" if name == config["head_node_type"] else "worker",
            TAG_RAY_USER_NODE_TYPE: name,
        }
        [machine] = provider.create_node(copy.deepcopy(kind["node_config"]), tags, 1)
        [found] = boto3.client("ec2").describe_instances(InstanceIds=[machine])["Reservations"]
        started[name] = found["Instances"][0]

    assert {name: each["InstanceType"] for name, each in started.items()} == {
        "head": "m6i.xlarge", "l4_spot": "g6.2xlarge", "l4": "g6.2xlarge",
    }  # fmt: skip
    assert {name: each.get("InstanceLifecycle") for name, each in started.items()} == {
        "head": None, "l4_spot": "spot", "l4": None,
    }  # fmt: skip
    for name, each in started.items():
        role = "slowfast-head" if name == "head" else "slowfast-worker"
        assert each["IamInstanceProfile"]["Arn"].endswith(f"/{role}")
        assert [group["GroupId"] for group in each["SecurityGroups"]] == [account]
        assert each["MetadataOptions"]["HttpTokens"] == "required"

    provider.terminate_nodes([each["InstanceId"] for each in started.values()])

    left = boto3.client("ec2").describe_instances()["Reservations"]
    assert {each["Instances"][0]["State"]["Name"] for each in left} == {"terminated"}
    disks = boto3.client("ec2").describe_volumes()["Volumes"]
    assert disks == []
