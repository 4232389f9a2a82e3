"""The published Python client, unmodified, against an `adit up`: contract D, section 15.

Prints a line for each check, `ok NAME` or `FAILED NAME: why`, and `done COUNT` at the end. Which checks: the names of
groups as arguments. The client takes its base URL and token from its own variables (CLOUDFLARE_BASE_URL,
CLOUDFLARE_API_TOKEN) and what it trusts from SSL_CERT_FILE; ACCOUNT is the account's tag, and FOREIGN the tag and a tunnel of
another one, if there is one.

Every answer that any check gets is held against what holds for all of them (contract D, 15, item 11), and decoded strictly: a
field whose type is not the published schema's is a failure.
"""

import inspect
import ipaddress
import json
import os
import sys
import traceback

import cloudflare
from cloudflare import Cloudflare

ACCOUNT = os.environ["ACCOUNT"]
NOWHERE = "00000000-0000-4000-8000-000000000000"
SECRET = "AQIDBAUGBwgBAgMEBQYHCAECAwQFBgcIAQIDBAUGBwg="


class Wire:
    """What went over the wire: each request, and that each answer has what every answer has."""

    def __init__(self):
        self.requests = []

    def sent(self, request):
        self.requests.append(f"{request.method} {request.url.raw_path.decode()}")

    def answered(self, response):
        body = json.loads(response.read())
        headers = response.headers
        equal(headers.get("content-type"), "application/json")
        for name in ("cf-ray", "x-request-id", "ratelimit", "ratelimit-policy"):
            assert headers.get(name), f"no {name} header"
        assert {"success", "errors", "messages", "result"} <= body.keys(), body
        equal(body["messages"], [])
        equal(body["success"], response.status_code == 200)
        equal(bool(body["errors"]), response.status_code != 200)
        if isinstance(body["result"], list):
            assert "count" in body.get("result_info", {}) or "cursor" in body.get("result_info", {}) or (
                "cursors" in body.get("result_info", {})
            ), f"a list without result_info: {response.request.url}"
        final = 400 <= response.status_code < 500 and response.status_code not in (408, 429)
        equal(headers.get("x-should-retry"), "false" if final else None)


def client(**options):
    wire = Wire()
    hooks = {"request": [wire.sent], "response": [wire.answered]}
    options = {"_strict_response_validation": True} | options
    made = Cloudflare(http_client=cloudflare.DefaultHttpxClient(event_hooks=hooks), **options)
    made.wire = wire
    return made


def equal(got, wanted):
    assert got == wanted, f"{got!r} is not {wanted!r}"


def refused(status, code, call, *arguments, **named):
    """The call is refused, with this status and code; gives the error."""
    try:
        result = call(*arguments, **named)
        if hasattr(result, "__iter__"):
            list(result)
    except cloudflare.APIStatusError as error:
        equal((error.status_code, error.errors[0].code), (status, code))
        return error
    raise AssertionError(f"not refused: {result!r}")


CHECKS = []


def check(group):
    def add(function):
        CHECKS.append((group, function))
        return function

    return add


# Tunnels.


@check("tunnels")
def a_tunnel_is_made_read_edited_and_deleted():
    api = client()
    tunnels = api.zero_trust.tunnels.cloudflared
    made = tunnels.create(account_id=ACCOUNT, name="py-one", tunnel_secret=SECRET, config_src="local")
    equal((made.name, made.status, made.account_tag), ("py-one", "inactive", ACCOUNT))
    read = tunnels.get(made.id, account_id=ACCOUNT)
    equal((read.id, read.name, read.created_at, read.deleted_at), (made.id, "py-one", made.created_at, None))
    edited = tunnels.edit(made.id, account_id=ACCOUNT, name="py-two")
    equal((edited.id, edited.name), (made.id, "py-two"))
    token = tunnels.token.get(made.id, account_id=ACCOUNT)
    assert token.startswith("eyJ"), "the token is a text"
    equal([row.id for row in tunnels.list(account_id=ACCOUNT, name="py-two", is_deleted=False)], [made.id])
    equal([row.id for row in tunnels.list(account_id=ACCOUNT, uuid=made.id)], [made.id])
    assert made.id in [row.id for row in api.zero_trust.tunnels.list(account_id=ACCOUNT)]
    equal(list(tunnels.connections.get(made.id, account_id=ACCOUNT)), [])
    tunnels.connections.delete(made.id, account_id=ACCOUNT)
    gone = tunnels.delete(made.id, account_id=ACCOUNT)
    assert gone.deleted_at, "a deleted tunnel says when"
    assert tunnels.get(made.id, account_id=ACCOUNT).deleted_at, "and can still be read"
    equal(list(tunnels.list(account_id=ACCOUNT, name="py-two", is_deleted=False)), [])


@check("tunnels")
def a_configuration_is_stored_and_has_the_next_version():
    # The published schema asks for a host name in every rule, and the catch-all has none.
    tunnels = client(_strict_response_validation=False).zero_trust.tunnels.cloudflared
    made = tunnels.create(account_id=ACCOUNT, name="py-remote", config_src="cloudflare")
    none = tunnels.configurations.get(made.id, account_id=ACCOUNT)
    equal((none.version, none.config), (0, None))
    rules = [
        {"hostname": "py.example.com", "service": "http://127.0.0.1:8080", "originRequest": {"connectTimeout": 7}},
        {"service": "http_status:404"},
    ]
    first = tunnels.configurations.update(made.id, account_id=ACCOUNT, config={"ingress": rules})
    equal((first.version, first.source), (1, "cloudflare"))
    read = tunnels.configurations.get(made.id, account_id=ACCOUNT)
    equal(read.config.ingress[0].hostname, "py.example.com")
    equal(read.config.ingress[0].origin_request.connect_timeout, 7)
    refused(400, 1056, tunnels.configurations.update, made.id, account_id=ACCOUNT, config={"ingress": rules[:1]})
    tunnels.delete(made.id, account_id=ACCOUNT)


@check("tunnels")
def a_name_that_is_taken_is_told_once():
    api = client()
    tunnels = api.zero_trust.tunnels.cloudflared
    made = tunnels.create(account_id=ACCOUNT, name="py-taken")
    before = len(api.wire.requests)
    error = refused(409, 1013, tunnels.create, account_id=ACCOUNT, name="py-taken")
    equal(error.errors[0].message, "You already have a tunnel with this name")
    equal(len(api.wire.requests) - before, 1)
    assert api.max_retries > 0, "the client would have tried again"
    tunnels.delete(made.id, account_id=ACCOUNT)


@check("tunnels")
def what_is_not_there_is_404_for_every_object():
    zero_trust = client().zero_trust
    refused(404, 1003, zero_trust.tunnels.cloudflared.get, NOWHERE, account_id=ACCOUNT)
    refused(404, 1003, zero_trust.tunnels.cloudflared.edit, NOWHERE, account_id=ACCOUNT, name="x")
    refused(404, 1003, zero_trust.tunnels.cloudflared.delete, NOWHERE, account_id=ACCOUNT)
    refused(404, 1003, zero_trust.tunnels.cloudflared.token.get, NOWHERE, account_id=ACCOUNT)
    refused(404, 1003, zero_trust.networks.routes.get, NOWHERE, account_id=ACCOUNT)
    refused(404, 1003, zero_trust.networks.virtual_networks.get, NOWHERE, account_id=ACCOUNT)


@check("tunnels")
def what_nobody_knows_in_a_query_or_a_body_is_ignored():
    tunnels = client().zero_trust.tunnels.cloudflared
    extra = {"extra_body": {"x_unknown": [1]}, "extra_query": {"x_unknown": "1"}}
    made = tunnels.create(account_id=ACCOUNT, name="py-extra", **extra)
    list(tunnels.list(account_id=ACCOUNT, extra_query={"x_unknown": "1"}))
    tunnels.edit(made.id, account_id=ACCOUNT, name="py-extra2", **extra)
    tunnels.delete(made.id, account_id=ACCOUNT, extra_query={"x_unknown": "1"})


def paging(count):
    """Auto-paging over this many tunnels sees each once and ends, in as many requests as that takes."""
    api = client()
    tunnels = api.zero_trust.tunnels.cloudflared
    made = [tunnels.create(account_id=ACCOUNT, name=f"py-page-{count}-{number:04}") for number in range(count)]
    wanted = {"account_id": ACCOUNT, "is_deleted": False, "include_prefix": f"py-page-{count}-"}
    before = len(api.wire.requests)
    rows = [row.name for row in tunnels.list(**wanted)]
    equal(rows, [tunnel.name for tunnel in made])
    pages = len(api.wire.requests) - before
    assert pages <= count // 20 + 2, f"{pages} requests for {count} tunnels"
    for tunnel in made:
        tunnels.delete(tunnel.id, account_id=ACCOUNT)
    equal(list(tunnels.list(**wanted)), [])


@check("paging")
def paging_over_0_tunnels_ends():
    paging(0)


@check("paging")
def paging_over_1_tunnel_ends():
    paging(1)


@check("paging")
def paging_over_20_tunnels_ends():
    paging(20)


@check("paging")
def paging_over_21_tunnels_ends():
    paging(21)


@check("long-paging")
def paging_over_1001_tunnels_ends():
    paging(1001)


# Routes and virtual networks.


@check("routes")
def a_route_is_made_found_edited_and_deleted():
    # Strictly, no route for an address is no answer.
    zero_trust = client(_strict_response_validation=False).zero_trust
    routes = zero_trust.networks.routes
    tunnel = zero_trust.tunnels.cloudflared.create(account_id=ACCOUNT, name="py-routed")
    for network, comment in (("10.77.0.0/24", "v4"), ("fd00:77::/64", "v6"), ("FD00:77:1::/64", "as written")):
        made = routes.create(account_id=ACCOUNT, network=network, tunnel_id=tunnel.id, comment=comment)
        equal((made.network, made.comment, made.tunnel_id), (network, comment, tunnel.id))
        exact = routes.list(
            account_id=ACCOUNT, network_subset=network, network_superset=network, is_deleted=False
        )
        equal([(row.id, row.network, row.tunnel_name) for row in exact], [(made.id, network, "py-routed")])
        inside = str(next(iter(ipaddress.ip_network(network).hosts())))
        found = routes.ips.get(inside, account_id=ACCOUNT)
        equal((found.id, found.network), (made.id, network))
        edited = routes.edit(made.id, account_id=ACCOUNT, comment="another")
        equal((edited.network, edited.comment), (network, "another"))
        equal(routes.get(made.id, account_id=ACCOUNT).comment, "another")
        error = refused(409, 1014, routes.create, account_id=ACCOUNT, network=network, tunnel_id=tunnel.id)
        equal(error.errors[0].message, "You already have a route defined for this exact IP subnet")
        assert routes.delete(made.id, account_id=ACCOUNT).deleted_at
        refused(404, 1003, routes.get, made.id, account_id=ACCOUNT)
        equal(routes.ips.get(inside, account_id=ACCOUNT), None)
    refused(400, 1003, routes.create, account_id=ACCOUNT, network="10.77.0.1/24", tunnel_id=tunnel.id)
    refused(400, 1003, routes.create, account_id=ACCOUNT, network="10.77.0.0/24", tunnel_id=NOWHERE)
    zero_trust.tunnels.cloudflared.delete(tunnel.id, account_id=ACCOUNT)


@check("routes")
def a_hostname_route_is_made_found_edited_and_deleted():
    api = client()
    zero_trust = api.zero_trust
    if not hasattr(zero_trust.networks, "hostname_routes"):
        return  # An older client does not know them.
    tunnel = zero_trust.tunnels.cloudflared.create(account_id=ACCOUNT, name="named", config_src="cloudflare")
    routes = zero_trust.networks.hostname_routes
    made = routes.create(account_id=ACCOUNT, hostname="*.named.internal", tunnel_id=tunnel.id, comment="a")
    equal((made.hostname, made.tunnel_id, made.tunnel_name), ("*.named.internal", tunnel.id, "named"))
    equal([found.id for found in routes.list(account_id=ACCOUNT, hostname="*.named.internal")], [made.id])
    edited = routes.edit(made.id, account_id=ACCOUNT, comment="b")
    equal((edited.comment, routes.get(made.id, account_id=ACCOUNT).comment), ("b", "b"))
    refused(409, 1014, routes.create, account_id=ACCOUNT, hostname="*.named.internal", tunnel_id=tunnel.id)
    refused(400, 1003, routes.create, account_id=ACCOUNT, hostname="10.0.0.1", tunnel_id=tunnel.id)
    assert routes.delete(made.id, account_id=ACCOUNT).deleted_at
    refused(404, 1003, routes.get, made.id, account_id=ACCOUNT)
    zero_trust.tunnels.cloudflared.delete(tunnel.id, account_id=ACCOUNT)


@check("routes")
def a_network_is_a_part_of_the_path_in_the_older_operations():
    api = client()
    zero_trust = api.zero_trust
    networks = zero_trust.networks.routes.networks
    tunnel = zero_trust.tunnels.cloudflared.create(account_id=ACCOUNT, name="py-by-network")
    # The older client leaves escaping to its caller, the newer escapes what it is given, escaped or not.
    for network, escaped in (
        ("10.78.0.0/16", "10.78.0.0%2F16"),
        ("10.78.0.0/16", "10.78.0.0/16"),
        ("fd00:78::/48", "fd00%3A78%3A%3A%2F48"),
        ("fd00:78::/48", "fd00:78::/48"),
    ):
        made = networks.create(escaped, account_id=ACCOUNT, tunnel_id=tunnel.id, comment="old")
        equal((made.network, made.comment), (network, "old"))
        edited = networks.edit(escaped, account_id=ACCOUNT)
        equal((edited.id, edited.network), (made.id, network))
        gone = networks.delete(escaped, account_id=ACCOUNT)
        equal((gone.id, gone.network), (made.id, network))
        refused(404, 1003, networks.delete, escaped, account_id=ACCOUNT)
    assert any("10.78.0.0%2F16" in request for request in api.wire.requests), api.wire.requests
    zero_trust.tunnels.cloudflared.delete(tunnel.id, account_id=ACCOUNT)


@check("routes")
def equal_networks_live_in_two_virtual_networks():
    zero_trust = client().zero_trust
    vnets, routes = zero_trust.networks.virtual_networks, zero_trust.networks.routes
    equal([row.name for row in vnets.list(account_id=ACCOUNT, is_default=True)], ["default"])
    second = vnets.create(account_id=ACCOUNT, name="py-second", comment="lab", is_default=False)
    equal((second.name, second.comment, second.is_default_network), ("py-second", "lab", False))
    refused(409, 1017, vnets.create, account_id=ACCOUNT, name="py-second")
    tunnel = zero_trust.tunnels.cloudflared.create(account_id=ACCOUNT, name="py-two-nets")
    here = routes.create(account_id=ACCOUNT, network="10.79.0.0/16", tunnel_id=tunnel.id)
    there = routes.create(
        account_id=ACCOUNT, network="10.79.0.0/16", tunnel_id=tunnel.id, virtual_network_id=second.id
    )
    assert here.virtual_network_id and here.virtual_network_id != there.virtual_network_id
    equal(routes.ips.get("10.79.1.1", account_id=ACCOUNT).id, here.id)
    equal(routes.ips.get("10.79.1.1", account_id=ACCOUNT, virtual_network_id=second.id).id, there.id)
    refused(400, 1019, vnets.delete, second.id, account_id=ACCOUNT)
    equal(vnets.edit(second.id, account_id=ACCOUNT, comment="").comment, "")
    routes.delete(there.id, account_id=ACCOUNT)
    routes.delete(here.id, account_id=ACCOUNT)
    vnets.delete(second.id, account_id=ACCOUNT)
    zero_trust.tunnels.cloudflared.delete(tunnel.id, account_id=ACCOUNT)


# Accounts, tokens and credentials.


@check("tokens")
def a_token_is_made_verified_rolled_and_revoked():
    api = client()
    equal(api.user.tokens.verify().status, "active")
    equal(api.accounts.tokens.verify(account_id=ACCOUNT).status, "active")
    equal([account.id for account in api.accounts.list()], [ACCOUNT])
    equal(api.accounts.get(account_id=ACCOUNT).id, ACCOUNT)
    groups = {group.name: group.id for group in api.accounts.tokens.permission_groups.list(account_id=ACCOUNT)}
    made = api.accounts.tokens.create(
        account_id=ACCOUNT, name="py-limited", policies=policies(ACCOUNT, groups["Cloudflare Tunnel Read"])
    )
    limited = client(api_token=made.value)
    equal(limited.user.tokens.verify().id, made.id)
    tunnels = limited.zero_trust.tunnels.cloudflared
    list(tunnels.list(account_id=ACCOUNT))
    refused(403, 10000, tunnels.create, account_id=ACCOUNT, name="py-forbidden")
    refused(403, 10000, limited.zero_trust.access.service_tokens.list, account_id=ACCOUNT)
    equal(api.accounts.tokens.get(made.id, account_id=ACCOUNT).name, "py-limited")
    roll = api.accounts.tokens.value.update
    # The older client wants to be given the empty body.
    body = {"body": {}} if "body" in inspect.signature(roll).parameters else {}
    rolled = roll(made.id, account_id=ACCOUNT, **body)
    refused(401, 1000, limited.user.tokens.verify)
    limited = client(api_token=rolled)
    equal(limited.user.tokens.verify().id, made.id)
    api.accounts.tokens.delete(made.id, account_id=ACCOUNT)
    refused(401, 1000, limited.user.tokens.verify)


@check("tokens")
def a_token_that_names_another_account_sees_nothing():
    api = client()
    groups = {group.name: group.id for group in api.accounts.tokens.permission_groups.list(account_id=ACCOUNT)}
    made = api.accounts.tokens.create(
        account_id=ACCOUNT, name="py-elsewhere", policies=policies("f" * 32, groups["Cloudflare Tunnel Write"])
    )
    elsewhere = client(api_token=made.value)
    refused(403, 9109, elsewhere.zero_trust.tunnels.cloudflared.list, account_id=ACCOUNT)
    refused(403, 9109, elsewhere.zero_trust.tunnels.cloudflared.list, account_id="f" * 32)
    equal(list(elsewhere.accounts.list()), [])
    api.accounts.tokens.delete(made.id, account_id=ACCOUNT)


def policies(account, *groups):
    return [
        {
            "effect": "allow",
            "permission_groups": [{"id": group} for group in groups],
            "resources": {f"com.cloudflare.api.account.{account}": "*"},
        }
    ]


@check("tokens")
def each_wrong_credential_has_its_code():
    wrong = client(api_token="x" * 40)
    refused(401, 1000, wrong.user.tokens.verify)
    refused(401, 10000, wrong.zero_trust.tunnels.cloudflared.list, account_id=ACCOUNT)
    # With an e-mail address this client sends no token.
    refused(400, 9106, client(api_email="someone@example.com").user.tokens.verify)
    key = client(api_email="someone@example.com", api_key="0" * 37)
    for call in (key.user.tokens.verify, key.accounts.list):
        error = refused(401, 10000, call)
        assert "X-Auth-Key" in error.errors[0].message, error.errors[0].message
    # A lone e-mail address beside a token is ignored (contract D, 3.1).
    both = client(default_headers={"X-Auth-Email": "someone@example.com"})
    equal(both.user.tokens.verify().status, "active")


@check("tokens")
def an_account_is_not_made_or_deleted_here():
    api = client()
    refused(403, 10000, api.accounts.create, name="another", type="standard")
    refused(403, 10000, api.accounts.delete, account_id=ACCOUNT)


@check("service-tokens")
def a_service_tokens_secret_is_shown_once():
    tokens = client().zero_trust.access.service_tokens
    made = tokens.create(account_id=ACCOUNT, name="py-ci", duration="60m")
    assert made.client_id.endswith(".access") and len(made.client_secret) == 64, made
    read = tokens.get(made.id, account_id=ACCOUNT)
    equal((read.name, read.client_id, read.duration), ("py-ci", made.client_id, "60m"))
    assert "client_secret" not in read.model_dump() or read.client_secret is None
    assert made.id in [row.id for row in tokens.list(account_id=ACCOUNT)]
    equal(tokens.update(made.id, account_id=ACCOUNT, name="py-ci2").name, "py-ci2")
    rotated = tokens.rotate(made.id, account_id=ACCOUNT)
    assert rotated.client_secret and rotated.client_secret != made.client_secret
    tokens.refresh(made.id, account_id=ACCOUNT)
    equal(tokens.delete(made.id, account_id=ACCOUNT).id, made.id)


@check("devices")
def a_registration_is_read_revoked_and_let_in_again():
    devices = client().zero_trust.devices
    [row] = devices.registrations.list(account_id=ACCOUNT)
    read = devices.registrations.get(row.id, account_id=ACCOUNT)
    equal((read.id, read.device.id, read.revoked_at), (row.id, row.device.id, None))
    [device] = devices.devices.list(account_id=ACCOUNT)
    equal((device.id, device.active_registrations), (row.device.id, 1))
    equal(devices.devices.get(device.id, account_id=ACCOUNT).name, device.name)
    devices.registrations.revoke(account_id=ACCOUNT, id=[row.id])
    assert devices.registrations.get(row.id, account_id=ACCOUNT).revoked_at
    equal(devices.devices.get(device.id, account_id=ACCOUNT).active_registrations, 0)
    devices.registrations.unrevoke(account_id=ACCOUNT, id=[row.id])
    equal(devices.registrations.get(row.id, account_id=ACCOUNT).revoked_at, None)
    refused(404, 1100, devices.registrations.revoke, account_id=ACCOUNT, id=[row.id, NOWHERE])
    equal(devices.registrations.get(row.id, account_id=ACCOUNT).revoked_at, None)
    refused(404, 1100, devices.registrations.get, NOWHERE, account_id=ACCOUNT)
    refused(404, 1100, devices.devices.get, NOWHERE, account_id=ACCOUNT)
    # The older list of the same.
    equal([old.id for old in devices.list(account_id=ACCOUNT)], [row.id])
    devices.registrations.bulk_delete(account_id=ACCOUNT, id=[row.id])
    equal(list(devices.registrations.list(account_id=ACCOUNT)), [])
    devices.devices.delete(device.id, account_id=ACCOUNT)
    equal(list(devices.devices.list(account_id=ACCOUNT)), [])


# Lists and rules.


def items_of(made):
    """The values of a list, without paging and in pages. The older client's published type is lists of lists, and one page:
    strictly, it reads no answer, and otherwise leaves the rows as they came."""
    older = cloudflare.__version__.startswith("4.")
    lists = client(_strict_response_validation=not older).zero_trust.gateway.lists
    value_of = lambda row: row["value"] if isinstance(row, dict) else row.value
    whole = [value_of(row) for row in lists.items.list(made.id, account_id=ACCOUNT)]
    paged = lists.items.list(made.id, account_id=ACCOUNT, extra_query={"per_page": 400})
    equal([value_of(row) for row in paged], whole[:400] if older else whole)
    return whole


@check("lists")
def a_list_keeps_its_items_until_they_are_replaced():
    lists = client().zero_trust.gateway.lists
    stored = lambda: items_of(made)
    items = [{"value": "10.10.0.5/32", "description": "API"}, {"value": "2001:DB8::101/128"}, {"value": "10.0.0.1"}]
    made = lists.create(account_id=ACCOUNT, name="py IPs", type="IP", description="of Python", items=items)
    equal((made.name, made.type, made.description), ("py IPs", "IP", "of Python"))
    values = [item["value"] for item in items]
    equal(sorted(stored()), sorted(values))
    read = lists.get(made.id, account_id=ACCOUNT)
    equal((read.count, sorted(item.value for item in read.items)), (3, sorted(values)))
    lists.edit(made.id, account_id=ACCOUNT, append=[{"value": "10.0.0.2"}], remove=["10.0.0.1"])
    equal(sorted(stored()), sorted(values[:2] + ["10.0.0.2"]))
    lists.update(made.id, account_id=ACCOUNT, name="py renamed")
    equal(len(stored()), 3)
    equal(lists.get(made.id, account_id=ACCOUNT).name, "py renamed")
    listed = next(row for row in lists.list(account_id=ACCOUNT) if row.id == made.id)
    equal((listed.count, listed.name), (3, "py renamed"))
    lists.update(made.id, account_id=ACCOUNT, name="py renamed", items=[])
    equal(stored(), [])
    error = refused(
        400, 2054, lists.create, account_id=ACCOUNT, name="bad", type="IP", items=items + [{"value": "10.0.0.1/8"}]
    )
    equal(error.body["errors"][0]["source"]["pointer"], "/items/3/value")
    lists.delete(made.id, account_id=ACCOUNT)
    refused(404, 2050, lists.get, made.id, account_id=ACCOUNT)


@check("lists")
def a_long_list_is_read_whole_without_paging():
    lists = client().zero_trust.gateway.lists
    values = [f"10.{number // 250}.{number % 250}.1" for number in range(1500)]
    made = lists.create(account_id=ACCOUNT, name="py long", type="IP", items=[{"value": value} for value in values])
    equal(sorted(items_of(made)), sorted(values))
    lists.delete(made.id, account_id=ACCOUNT)


@check("certificates")
def an_authority_of_inspection_is_made_activated_chosen_and_deleted():
    gateway = client().zero_trust.gateway
    certificates = gateway.certificates
    made = certificates.create(account_id=ACCOUNT, validity_period_days=30)
    equal((made.binding_status, made.in_use, made.type), ("inactive", False, "gateway_managed"))
    assert "BEGIN CERTIFICATE" in made.certificate, made.certificate
    # The older client wants to be given the empty body.
    nothing = {"body": {}} if "body" in inspect.signature(certificates.activate).parameters else {}
    active = certificates.activate(made.id, account_id=ACCOUNT, **nothing)
    equal(active.binding_status, "available")
    choose = lambda id: gateway.configurations.edit(account_id=ACCOUNT, settings={"certificate": {"id": id}})
    before = gateway.configurations.get(account_id=ACCOUNT).settings.certificate.id
    equal(choose(made.id).settings.certificate.id, made.id)
    refused(409, 2101, certificates.delete, made.id, account_id=ACCOUNT)
    refused(409, 2101, certificates.deactivate, made.id, account_id=ACCOUNT, **nothing)
    equal(choose(before).settings.certificate.id, before)
    assert made.id in [row.id for row in certificates.list(account_id=ACCOUNT)]
    equal(certificates.deactivate(made.id, account_id=ACCOUNT, **nothing).binding_status, "inactive")
    certificates.delete(made.id, account_id=ACCOUNT)
    refused(404, 2100, certificates.get, made.id, account_id=ACCOUNT)


@check("rules")
def the_reference_rule_comes_back_as_it_was_sent():
    gateway = client().zero_trust.gateway
    ips = gateway.lists.create(account_id=ACCOUNT, name="py API", type="IP", items=[{"value": "10.10.0.5/32"}])
    traffic = "any(http.conn.dst_ip[*] in $" + ips.id.replace("-", "") + ")"
    sent = {
        "name": "Don't inspect Kubernetes API",
        "description": "Allow connections from kubectl to API",
        "precedence": 10000123,
        "enabled": True,
        "action": "off",
        "filters": ["http"],
        "traffic": traffic,
    }
    made = gateway.rules.create(account_id=ACCOUNT, **sent)
    read = gateway.rules.get(made.id, account_id=ACCOUNT)
    for rule in (made, read):
        equal({field: getattr(rule, field) for field in sent}, sent)
        equal((rule.identity, rule.device_posture, rule.rule_settings, rule.version), ("", "", None, 1))
    assert made.id in [row.id for row in gateway.rules.list(account_id=ACCOUNT)]
    refused(409, 2053, gateway.lists.delete, ips.id, account_id=ACCOUNT)
    changed = gateway.rules.update(made.id, account_id=ACCOUNT, **(sent | {"description": "changed"}))
    equal((changed.description, changed.version, changed.precedence), ("changed", 2, 10000123))
    zeroes = {"block_reason": "", "block_page_enabled": False, "override_ips": None, "l4override": None}
    changed = gateway.rules.update(made.id, account_id=ACCOUNT, **(sent | {"rule_settings": zeroes}))
    equal(changed.rule_settings, None)
    error = refused(
        400, 2088, gateway.rules.update, made.id, account_id=ACCOUNT, **(sent | {"traffic": "http.foo == 1"})
    )
    equal(error.body["errors"][0]["source"]["pointer"], "/traffic")
    gateway.rules.delete(made.id, account_id=ACCOUNT)
    error = refused(404, 2080, gateway.rules.get, made.id, account_id=ACCOUNT)
    assert "invalid rule id" in error.errors[0].message, error.errors[0].message
    gateway.lists.delete(ips.id, account_id=ACCOUNT)


@check("rules")
def every_action_is_accepted_or_refused_by_its_filter():
    rules = client().zero_trust.gateway.rules
    actions = (
        "on off allow block scan noscan safesearch ytrestricted isolate noisolate override l4_override egress resolve "
        "quarantine redirect"
    ).split()
    accepted = set()
    for number, (filter, action) in enumerate(
        (filter, action) for filter in ("dns", "http", "l4", "egress", "dns_resolver") for action in actions
    ):
        try:
            made = rules.create(
                account_id=ACCOUNT, name=f"py {filter} {action}", action=action, filters=[filter], precedence=number
            )
        except cloudflare.BadRequestError as error:
            assert error.errors[0].message, error
            continue
        equal((made.action, made.filters), (action, [filter]))
        accepted.add((filter, action))
        rules.delete(made.id, account_id=ACCOUNT)
    must = {("http", "off"), ("http", "allow"), ("http", "block"), ("l4", "allow"), ("l4", "block"), ("dns", "block")}
    assert must <= accepted, accepted
    assert not accepted & {("dns", "isolate"), ("l4", "off"), ("http", "egress"), ("egress", "block")}, accepted


@check("locations")
def fallback_domains_come_back_as_they_were_written():
    fallbacks = client().zero_trust.devices.policies.default.fallback_domains
    sent = [{"suffix": "corp.example", "description": "py", "dns_server": ["192.0.2.53"]}, {"suffix": "lan"}]
    fallbacks.update(account_id=ACCOUNT, domains=sent)
    rows = list(fallbacks.get(account_id=ACCOUNT))
    equal([(row.suffix, row.description, row.dns_server) for row in rows],
          [("corp.example", "py", ["192.0.2.53"]), ("lan", None, None)])
    fallbacks.update(account_id=ACCOUNT, domains=[])
    equal(list(fallbacks.get(account_id=ACCOUNT)), [])


@check("locations")
def a_location_comes_back_as_it_was_written():
    locations = client().zero_trust.gateway.locations
    (default,) = [row for row in locations.list(account_id=ACCOUNT) if row.client_default]
    sent = {
        "name": "py office",
        "networks": [{"network": "192.0.2.0/24"}],
        "endpoints": {
            "doh": {"enabled": True, "require_token": False, "networks": [{"network": "198.51.100.7/32"}]},
            "dot": {"enabled": True},
            "ipv4": {"enabled": False},
            "ipv6": {"enabled": False},
        },
    }
    made = locations.create(account_id=ACCOUNT, **sent)
    read = locations.get(made.id, account_id=ACCOUNT)
    for location in (made, read):
        equal((location.name, location.client_default, location.ecs_support), ("py office", False, False))
        equal([row.network for row in location.networks], ["192.0.2.0/24"])
        equal((location.endpoints.doh.enabled, location.endpoints.doh.require_token), (True, False))
        equal([row.network for row in location.endpoints.doh.networks], ["198.51.100.7/32"])
        equal((location.endpoints.dot.enabled, location.endpoints.dot.networks), (True, None))
        equal((location.doh_subdomain, location.ip), (made.doh_subdomain, None))
    changed = locations.update(made.id, account_id=ACCOUNT, name="py home")
    equal((changed.name, changed.networks, changed.endpoints), ("py home", None, None))
    equal(changed.doh_subdomain, made.doh_subdomain)
    error = refused(400, 2102, locations.create, account_id=ACCOUNT, name="bad", ecs_support=True)
    equal(error.body["errors"][0]["source"]["pointer"], "/ecs_support")
    refused(409, 2101, locations.create, account_id=ACCOUNT, name="py home")
    refused(400, 2102, locations.delete, default.id, account_id=ACCOUNT)
    locations.delete(made.id, account_id=ACCOUNT)
    refused(404, 2100, locations.get, made.id, account_id=ACCOUNT)


@check("audit")
def a_cursor_walks_over_every_record_once():
    api = client()
    tunnels = api.zero_trust.tunnels.cloudflared
    made = [tunnels.create(account_id=ACCOUNT, name=f"py-audit-{number}").id for number in range(125)]
    for tunnel in made:
        tunnels.delete(tunnel, account_id=ACCOUNT)
    stretch = {"account_id": ACCOUNT, "since": "2020-01-01", "before": "2100-01-01"}
    before = len(api.wire.requests)
    rows = list(api.accounts.logs.audit.list(**stretch, limit=40))
    assert len(api.wire.requests) - before >= len(rows) // 40, api.wire.requests[before:]
    equal(len({row.id for row in rows}), len(rows))
    seen = [(row.action.type, row.resource.id) for row in rows if row.resource.id in made]
    equal(sorted(seen), sorted([(kind, id) for id in made for kind in ("create", "delete")]))
    ours = {row.actor.token_name for row in rows if row.resource.id in made}
    equal(ours, {"admin"})
    filtered = list(api.accounts.logs.audit.list(**stretch, resource_id={"not": made}, action_type={"not": ["delete"]}))
    assert all(row.resource.id not in made and row.action.type != "delete" for row in filtered)
    equal(len(list(api.audit_logs.list(account_id=ACCOUNT, id=rows[0].id))), 1)


@check("foreign")
def another_accounts_objects_are_not_there():
    account, tunnel = os.environ["FOREIGN"].split("/")
    zero_trust = client().zero_trust
    refused(403, 9109, zero_trust.tunnels.cloudflared.list, account_id=account)
    refused(403, 9109, zero_trust.tunnels.cloudflared.get, tunnel, account_id=account)
    refused(404, 1003, zero_trust.tunnels.cloudflared.get, tunnel, account_id=ACCOUNT)
    refused(404, 1003, zero_trust.tunnels.cloudflared.delete, tunnel, account_id=ACCOUNT)
    refused(
        400, 1003, zero_trust.networks.routes.create, account_id=ACCOUNT, network="10.80.0.0/16", tunnel_id=tunnel
    )


def main(groups):
    failed = count = 0
    for group, function in CHECKS:
        if group not in groups:
            continue
        count += 1
        try:
            function()
            print(f"ok {function.__name__}", flush=True)
        except Exception as error:
            failed += 1
            where = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in where if frame.filename == __file__]
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            why = f"{type(error).__name__}: {error}{cause}".replace("\n", " ")[:2000]
            print(f"FAILED {function.__name__} at lines {lines}: {why}", flush=True)
    unknown = set(groups) - {group for group, _ in CHECKS}
    if unknown:
        sys.exit(f"no such groups: {sorted(unknown)}")
    print(f"done {count} with cloudflare {cloudflare.__version__}", flush=True)
    sys.exit(1 if failed else 0)


main(sys.argv[1:])
