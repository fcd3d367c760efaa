"""The one domain: CloudFront passes each route to its function, and streams pass through. Off by default."""

import json
import re
from typing import Any

import pytest
from cfnlint.decode import cfn_yaml

from functions.chat import limits
from infra.local.postgres import ROOT
from tests.package.kit import NAMES, Packaged

# Before the first test, the fixture builds every artifact, on a machine that runs other tests too.
pytestmark = pytest.mark.timeout(600)

# Of AWS's managed policies, by its documentation.
CACHING_DISABLED = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
ALL_VIEWER_EXCEPT_HOST_HEADER = "b689b0a8-53d0-40ab-baf2-68738e2966ac"
ROUTES = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))["paths"]
# Any text is the id of a chat.
IDS = ("0198c0de-0000-7000-8000-000000000000", "my chat", "share", "stop", "a%2Fshare", "a/stop/b", "plans")


def config(packaged: Packaged) -> dict[str, Any]:
    domain: dict[str, Any] = packaged.resource("Domain")["DistributionConfig"]
    return domain


def behaviors(packaged: Packaged) -> list[dict[str, Any]]:
    """In the order in which CloudFront compares them; the last one has no pattern."""
    return [*config(packaged)["CacheBehaviors"], config(packaged)["DefaultCacheBehavior"]]


def function_for(packaged: Packaged, path: str) -> str:
    """The function that gets a path: `*` is any text, `?` one character, and case counts."""
    for behavior in behaviors(packaged):
        pattern = re.escape(behavior.get("PathPattern", "*")).replace(r"\*", ".*").replace(r"\?", ".")
        if re.fullmatch(pattern, path):
            target: str = behavior["TargetOriginId"]
            return target
    raise AssertionError(path)


@pytest.mark.parametrize("route", ROUTES)
def test_each_route_reaches_a_function_that_has_it(packaged: Packaged, route: str) -> None:
    functions = [set(operation["tags"]) for operation in ROUTES[route].values()]
    for chat_id in IDS if "{chat_id}" in route else IDS[:1]:
        path = re.sub(r"\{\w+\}", lambda _: chat_id, route)  # noqa: B023 -- called at once
        for tags in functions:
            assert function_for(packaged, path) in tags, path


def test_stopping_reaches_account_and_mcp_the_chat(packaged: Packaged) -> None:
    """A chat whose processes are all busy could not be stopped. The OpenAPI document does not have /mcp."""
    assert function_for(packaged, "/chat/0198c0de/stop") == "account"
    assert function_for(packaged, "/mcp") == "chat"
    assert function_for(packaged, "/unknown") == "account"


def test_no_behavior_caches_compresses_or_hides_headers(packaged: Packaged) -> None:
    for behavior in behaviors(packaged):
        assert behavior["CachePolicyId"] == CACHING_DISABLED
        assert behavior["OriginRequestPolicyId"] == ALL_VIEWER_EXCEPT_HOST_HEADER
        assert behavior["Compress"] is False
        assert behavior["ViewerProtocolPolicy"] == "https-only"
        assert set(behavior["AllowedMethods"]) == {"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "POST", "DELETE"}


def test_each_function_with_a_url_is_an_origin(packaged: Packaged) -> None:
    origins = {origin["Id"]: origin for origin in config(packaged)["Origins"]}
    assert origins.keys() == set(NAMES) - {"maintenance"}
    for name, origin in origins.items():
        url = {"Fn::GetAtt": [f"{name.capitalize()}LambdaFunctionUrl", "FunctionUrl"]}
        assert origin["DomainName"] == {"Fn::Select": [2, {"Fn::Split": ["/", url]}]}
        assert origin["CustomOriginConfig"]["OriginProtocolPolicy"] == "https-only"
        # A stream is never silent for longer than its comments.
        assert 2 * limits.KEEP_ALIVE_S < origin["CustomOriginConfig"]["OriginReadTimeout"] <= 60


def test_without_a_name_there_is_no_domain(packaged: Packaged) -> None:
    template = packaged.template
    assert template["Parameters"]["DomainName"]["Default"] == template["Parameters"]["FirewallArn"]["Default"] == ""
    assert template["Conditions"]["HasDomain"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "DomainName"}, ""]}]}
    assert template["Resources"]["Domain"]["Condition"] == "HasDomain"
    assert template["Outputs"]["DomainTarget"]["Condition"] == "HasDomain"
    distributions = packaged.properties("AWS::CloudFront::Distribution")
    assert len(distributions) == 1
    firewall = {"Fn::If": ["HasFirewall", {"Ref": "FirewallArn"}, {"Ref": "AWS::NoValue"}]}
    assert config(packaged)["WebACLId"] == firewall


def test_the_firewall_limits_addresses_but_not_stripes() -> None:
    template = cfn_yaml.load(str(ROOT / "infra" / "firewall.yml"))
    acl = template["Resources"]["Firewall"]["Properties"]
    assert (acl["Scope"], acl["DefaultAction"]) == ("CLOUDFRONT", {"Allow": {}})
    (rule,) = acl["Rules"]
    rate = rule["Statement"]["RateBasedStatement"]
    assert (rate["AggregateKeyType"], rate["Limit"], rate["EvaluationWindowSec"]) == ("IP", {"Ref": "Requests"}, 300)
    excluded = rate["ScopeDownStatement"]["NotStatement"]["Statement"]["ByteMatchStatement"]
    assert (excluded["SearchString"], excluded["PositionalConstraint"]) == ("/webhooks/", "STARTS_WITH")
    assert rule["Action"]["Block"]["CustomResponse"]["ResponseCode"] == 429
