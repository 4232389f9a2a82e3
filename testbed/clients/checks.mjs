// The published TypeScript client, unmodified, against an `adit up`: contract D, section 15. See checks.py, whose output,
// arguments and variables these are; what it trusts is in NODE_EXTRA_CA_CERTS, and CLIENTS is where its package is.

import { createRequire } from "node:module";
import { deepStrictEqual as equal, ok } from "node:assert";
import { readFileSync } from "node:fs";

const require = createRequire(`${process.env.CLIENTS}/`);
const { Cloudflare } = require("cloudflare");
const { version } = JSON.parse(readFileSync(`${process.env.CLIENTS}/cloudflare/package.json`));

const account_id = process.env.ACCOUNT;
const NOWHERE = "00000000-0000-4000-8000-000000000000";
const SECRET = "AQIDBAUGBwgBAgMEBQYHCAECAwQFBgcIAQIDBAUGBwg=";

/** A client, and what it has sent: every answer is held against what holds for all of them. */
function client(options = {}) {
  const requests = [];
  const watched = async (url, init) => {
    requests.push(`${init.method} ${new URL(url).pathname}`);
    const response = await fetch(url, init);
    await answered(response.clone());
    return response;
  };
  const made = new Cloudflare({ fetch: watched, ...options });
  made.requests = requests;
  return made;
}

async function answered(response) {
  const body = await response.json();
  equal(response.headers.get("content-type"), "application/json");
  for (const name of ["cf-ray", "x-request-id", "ratelimit", "ratelimit-policy"]) {
    ok(response.headers.get(name), `no ${name} header`);
  }
  for (const key of ["success", "errors", "messages", "result"]) ok(key in body, `no ${key}`);
  equal(body.messages, []);
  equal(body.success, response.status === 200);
  equal(body.errors.length > 0, response.status !== 200);
  if (Array.isArray(body.result)) {
    ok(["count", "cursor", "cursors"].some((key) => key in (body.result_info ?? {})), `no result_info: ${response.url}`);
  }
  const final = response.status >= 400 && response.status < 500 && ![408, 429].includes(response.status);
  equal(response.headers.get("x-should-retry"), final ? "false" : null);
}

/** The call is refused, with this status and code; gives the error. */
async function refused(status, code, call) {
  let result;
  try {
    result = await call();
  } catch (error) {
    if (!(error instanceof Cloudflare.APIError)) throw error;
    equal([error.status, error.errors[0].code], [status, code]);
    return error;
  }
  throw new Error(`not refused: ${JSON.stringify(result)}`);
}

/** All rows of all pages. */
async function all(pages) {
  const rows = [];
  for await (const row of pages) rows.push(row);
  return rows;
}

async function paging(count) {
  const api = client();
  const tunnels = api.zeroTrust.tunnels.cloudflared;
  const made = [];
  for (let number = 0; number < count; number++) {
    const name = `js-page-${count}-${String(number).padStart(4, "0")}`;
    made.push(await tunnels.create({ account_id, name }));
  }
  const wanted = { account_id, is_deleted: false, include_prefix: `js-page-${count}-` };
  const before = api.requests.length;
  const rows = await all(tunnels.list(wanted));
  equal(rows.map((row) => row.name), made.map((tunnel) => tunnel.name));
  const pages = api.requests.length - before;
  ok(pages <= Math.floor(count / 20) + 2, `${pages} requests for ${count} tunnels`);
  for (const tunnel of made) await tunnels.delete(tunnel.id, { account_id });
  equal(await all(tunnels.list(wanted)), []);
}

const policies = (account, ...groups) => [
  {
    effect: "allow",
    permission_groups: groups.map((id) => ({ id })),
    resources: { [`com.cloudflare.api.account.${account}`]: "*" },
  },
];

async function permissionGroups(api) {
  const groups = await all(api.accounts.tokens.permissionGroups.list({ account_id }));
  return Object.fromEntries(groups.map((group) => [group.name, group.id]));
}

const checks = {
  tunnels: {
    async a_tunnel_is_made_read_edited_and_deleted() {
      const api = client();
      const tunnels = api.zeroTrust.tunnels.cloudflared;
      const made = await tunnels.create({ account_id, name: "js-one", tunnel_secret: SECRET, config_src: "local" });
      equal([made.name, made.status, made.account_tag], ["js-one", "inactive", account_id]);
      const read = await tunnels.get(made.id, { account_id });
      equal([read.id, read.created_at, read.deleted_at], [made.id, made.created_at, null]);
      equal((await tunnels.edit(made.id, { account_id, name: "js-two" })).name, "js-two");
      ok((await tunnels.token.get(made.id, { account_id })).startsWith("eyJ"));
      const named = await all(tunnels.list({ account_id, name: "js-two", is_deleted: false }));
      equal(named.map((row) => row.id), [made.id]);
      const any = await all(api.zeroTrust.tunnels.list({ account_id }));
      ok(any.some((row) => row.id === made.id));
      equal(await all(tunnels.connections.get(made.id, { account_id })), []);
      await tunnels.connections.delete(made.id, { account_id });
      ok((await tunnels.delete(made.id, { account_id })).deleted_at);
      ok((await tunnels.get(made.id, { account_id })).deleted_at);
    },
    async a_configuration_is_stored_and_has_the_next_version() {
      const tunnels = client().zeroTrust.tunnels.cloudflared;
      const made = await tunnels.create({ account_id, name: "js-remote", config_src: "cloudflare" });
      const none = await tunnels.configurations.get(made.id, { account_id });
      equal([none.version, none.config], [0, null]);
      const ingress = [
        { hostname: "js.example.com", service: "http://127.0.0.1:8080", originRequest: { connectTimeout: 7 } },
        { service: "http_status:404" },
      ];
      equal((await tunnels.configurations.update(made.id, { account_id, config: { ingress } })).version, 1);
      equal((await tunnels.configurations.get(made.id, { account_id })).config, { ingress });
      await refused(400, 1056, () =>
        tunnels.configurations.update(made.id, { account_id, config: { ingress: ingress.slice(0, 1) } }),
      );
      await tunnels.delete(made.id, { account_id });
    },
    async a_name_that_is_taken_is_told_once() {
      const api = client();
      const tunnels = api.zeroTrust.tunnels.cloudflared;
      const made = await tunnels.create({ account_id, name: "js-taken" });
      const before = api.requests.length;
      const error = await refused(409, 1013, () => tunnels.create({ account_id, name: "js-taken" }));
      equal(error.errors[0].message, "You already have a tunnel with this name");
      equal(api.requests.length - before, 1);
      ok(api.maxRetries > 0, "the client would have tried again");
      await tunnels.delete(made.id, { account_id });
    },
    async what_is_not_there_is_404_for_every_object() {
      const { tunnels, networks } = client().zeroTrust;
      await refused(404, 1003, () => tunnels.cloudflared.get(NOWHERE, { account_id }));
      await refused(404, 1003, () => tunnels.cloudflared.edit(NOWHERE, { account_id, name: "x" }));
      await refused(404, 1003, () => tunnels.cloudflared.delete(NOWHERE, { account_id }));
      await refused(404, 1003, () => networks.routes.get(NOWHERE, { account_id }));
      await refused(404, 1003, () => networks.virtualNetworks.get(NOWHERE, { account_id }));
    },
    async what_nobody_knows_in_a_query_or_a_body_is_ignored() {
      const tunnels = client().zeroTrust.tunnels.cloudflared;
      const made = await tunnels.create({ account_id, name: "js-extra", x_unknown: [1] }, { query: { x_unknown: 1 } });
      await all(tunnels.list({ account_id, x_unknown: 1 }));
      await tunnels.delete(made.id, { account_id });
    },
  },
  paging: {
    paging_over_0_tunnels_ends: () => paging(0),
    paging_over_1_tunnel_ends: () => paging(1),
    paging_over_20_tunnels_ends: () => paging(20),
    paging_over_21_tunnels_ends: () => paging(21),
  },
  "long-paging": { paging_over_1001_tunnels_ends: () => paging(1001) },
  routes: {
    async a_route_is_made_found_edited_and_deleted() {
      const { tunnels, networks } = client().zeroTrust;
      const routes = networks.routes;
      const tunnel = await tunnels.cloudflared.create({ account_id, name: "js-routed" });
      for (const [network, inside] of [["10.81.0.0/24", "10.81.0.9"], ["FD00:81::/64", "fd00:81::9"]]) {
        const made = await routes.create({ account_id, network, tunnel_id: tunnel.id, comment: "first" });
        equal([made.network, made.comment, made.tunnel_id], [network, "first", tunnel.id]);
        const exact = await all(
          routes.list({ account_id, network_subset: network, network_superset: network, is_deleted: false }),
        );
        equal(exact.map((row) => [row.id, row.tunnel_name]), [[made.id, "js-routed"]]);
        equal((await routes.ips.get(inside, { account_id })).id, made.id);
        equal((await routes.edit(made.id, { account_id, comment: "second" })).comment, "second");
        await refused(409, 1014, () => routes.create({ account_id, network, tunnel_id: tunnel.id }));
        ok((await routes.delete(made.id, { account_id })).deleted_at);
        await refused(404, 1003, () => routes.get(made.id, { account_id }));
        equal(await routes.ips.get(inside, { account_id }), null);
      }
      await refused(400, 1003, () => routes.create({ account_id, network: "10.81.0.1/24", tunnel_id: tunnel.id }));
      await tunnels.cloudflared.delete(tunnel.id, { account_id });
    },
    async a_network_is_a_part_of_the_path_in_the_older_operations() {
      const api = client();
      const { tunnels, networks } = api.zeroTrust;
      const tunnel = await tunnels.cloudflared.create({ account_id, name: "js-by-network" });
      for (const [network, given] of [
        ["10.82.0.0/16", "10.82.0.0/16"],
        ["10.82.0.0/16", "10.82.0.0%2F16"],
        ["fd00:82::/48", "fd00:82::/48"],
        ["fd00:82::/48", "fd00%3A82%3A%3A%2F48"],
      ]) {
        const made = await networks.routes.networks.create(given, { account_id, tunnel_id: tunnel.id, comment: "old" });
        equal([made.network, made.comment], [network, "old"]);
        equal((await networks.routes.networks.edit(given, { account_id })).id, made.id);
        equal((await networks.routes.networks.delete(given, { account_id })).id, made.id);
      }
      ok(api.requests.some((request) => request.endsWith("10.82.0.0%2F16")), api.requests.join(" "));
      await tunnels.cloudflared.delete(tunnel.id, { account_id });
    },
    async equal_networks_live_in_two_virtual_networks() {
      const { tunnels, networks } = client().zeroTrust;
      const { virtualNetworks, routes } = networks;
      equal((await all(virtualNetworks.list({ account_id, is_default: true }))).map((row) => row.name), ["default"]);
      const second = await virtualNetworks.create({ account_id, name: "js-second", comment: "lab" });
      await refused(409, 1017, () => virtualNetworks.create({ account_id, name: "js-second" }));
      const tunnel = await tunnels.cloudflared.create({ account_id, name: "js-two-nets" });
      const network = "10.83.0.0/16";
      const here = await routes.create({ account_id, network, tunnel_id: tunnel.id });
      const there = await routes.create({ account_id, network, tunnel_id: tunnel.id, virtual_network_id: second.id });
      const found = await routes.ips.get("10.83.1.1", { account_id, virtual_network_id: second.id });
      equal([found.id, (await routes.ips.get("10.83.1.1", { account_id })).id], [there.id, here.id]);
      await refused(400, 1019, () => virtualNetworks.delete(second.id, { account_id }));
      for (const route of [here, there]) await routes.delete(route.id, { account_id });
      await virtualNetworks.delete(second.id, { account_id });
      await tunnels.cloudflared.delete(tunnel.id, { account_id });
    },
  },
  tokens: {
    async a_token_is_made_verified_rolled_and_revoked() {
      const api = client();
      equal((await api.user.tokens.verify()).status, "active");
      equal((await api.accounts.tokens.verify({ account_id })).status, "active");
      equal((await all(api.accounts.list())).map((account) => account.id), [account_id]);
      const groups = await permissionGroups(api);
      const made = await api.accounts.tokens.create({
        account_id,
        name: "js-limited",
        policies: policies(account_id, groups["Cloudflare Tunnel Read"]),
      });
      let limited = client({ apiToken: made.value });
      await all(limited.zeroTrust.tunnels.cloudflared.list({ account_id }));
      await refused(403, 10000, () => limited.zeroTrust.tunnels.cloudflared.create({ account_id, name: "js-no" }));
      const rolled = await api.accounts.tokens.value.update(made.id, { account_id, body: {} });
      await refused(401, 1000, () => limited.user.tokens.verify());
      limited = client({ apiToken: rolled });
      equal((await limited.user.tokens.verify()).id, made.id);
      await api.accounts.tokens.delete(made.id, { account_id });
      await refused(401, 1000, () => limited.user.tokens.verify());
    },
    async a_token_that_names_another_account_sees_nothing() {
      const api = client();
      const elsewhere = "f".repeat(32);
      const groups = await permissionGroups(api);
      const made = await api.accounts.tokens.create({
        account_id,
        name: "js-elsewhere",
        policies: policies(elsewhere, groups["Cloudflare Tunnel Write"]),
      });
      const limited = client({ apiToken: made.value });
      await refused(403, 9109, () => limited.zeroTrust.tunnels.cloudflared.list({ account_id }));
      await refused(403, 9109, () => limited.zeroTrust.tunnels.cloudflared.list({ account_id: elsewhere }));
      await api.accounts.tokens.delete(made.id, { account_id });
    },
    async each_wrong_credential_has_its_code() {
      const wrong = client({ apiToken: "x".repeat(40) });
      await refused(401, 1000, () => wrong.user.tokens.verify());
      await refused(401, 10000, () => wrong.zeroTrust.tunnels.cloudflared.list({ account_id }));
      const pair = { apiEmail: "someone@example.com", apiKey: "0".repeat(37) };
      const key = client({ apiToken: null, ...pair });
      const error = await refused(401, 10000, () => key.user.tokens.verify());
      ok(error.errors[0].message.includes("X-Auth-Key"), error.errors[0].message);
    },
    async an_account_is_not_made_or_deleted_here() {
      const api = client();
      await refused(403, 10000, () => api.accounts.create({ name: "another", type: "standard" }));
      await refused(403, 10000, () => api.accounts.delete({ account_id }));
    },
  },
  "service-tokens": {
    async a_service_tokens_secret_is_shown_once() {
      const tokens = client().zeroTrust.access.serviceTokens;
      const made = await tokens.create({ account_id, name: "js-ci", duration: "60m" });
      equal([made.client_secret.length, made.duration], [64, "60m"]);
      const read = await tokens.get(made.id, { account_id });
      equal([read.name, read.client_id, read.client_secret], ["js-ci", made.client_id, undefined]);
      ok((await all(tokens.list({ account_id }))).some((row) => row.id === made.id));
      equal((await tokens.update(made.id, { account_id, name: "js-ci2" })).name, "js-ci2");
      ok((await tokens.rotate(made.id, { account_id })).client_secret !== made.client_secret);
      await tokens.refresh(made.id, { account_id });
      equal((await tokens.delete(made.id, { account_id })).id, made.id);
    },
  },
  devices: {
    async a_registration_is_read_revoked_and_let_in_again() {
      const { devices } = client().zeroTrust;
      const { registrations } = devices;
      const [row] = await all(registrations.list({ account_id }));
      const revoked = async () => (await registrations.get(row.id, { account_id })).revoked_at;
      equal(await revoked(), null);
      const [device] = await all(devices.devices.list({ account_id }));
      equal([device.id, device.active_registrations], [row.device.id, 1]);
      await registrations.revoke({ account_id, id: [row.id] });
      ok(await revoked());
      await registrations.unrevoke({ account_id, id: [row.id] });
      equal(await revoked(), null);
      await refused(404, 1100, () => registrations.revoke({ account_id, id: [row.id, NOWHERE] }));
      await refused(404, 1100, () => registrations.get(NOWHERE, { account_id }));
      await registrations.bulkDelete({ account_id, id: [row.id] });
      await devices.devices.delete(device.id, { account_id });
      equal(await all(devices.devices.list({ account_id })), []);
    },
  },
  lists: {
    async a_list_keeps_its_items_until_they_are_replaced() {
      const { lists } = client().zeroTrust.gateway;
      const items = [{ value: "10.10.0.5/32", description: "API" }, { value: "2001:DB8::101/128" }, { value: "10.0.0.1" }];
      const made = await lists.create({ account_id, name: "js IPs", type: "IP", items });
      const stored = async () => (await all(lists.items.list(made.id, { account_id }))).map((item) => item.value).sort();
      equal(await stored(), items.map((item) => item.value).sort());
      await lists.edit(made.id, { account_id, append: [{ value: "10.0.0.2" }], remove: ["10.0.0.1"] });
      equal(await stored(), ["10.0.0.2", "10.10.0.5/32", "2001:DB8::101/128"]);
      await lists.update(made.id, { account_id, name: "js renamed" });
      const read = await lists.get(made.id, { account_id });
      equal([read.name, read.count, read.items.length], ["js renamed", 3, 3]);
      ok((await all(lists.list({ account_id }))).some((row) => row.id === made.id && row.count === 3));
      await lists.update(made.id, { account_id, name: "js renamed", items: [] });
      equal(await stored(), []);
      const bad = [...items, { value: "10.0.0.1/8" }];
      const error = await refused(400, 2054, () => lists.create({ account_id, name: "bad", type: "IP", items: bad }));
      equal(error.error.errors[0].source.pointer, "/items/3/value");
      await lists.delete(made.id, { account_id });
      await refused(404, 2050, () => lists.get(made.id, { account_id }));
    },
  },
  certificates: {
    async an_authority_of_inspection_is_made_activated_chosen_and_deleted() {
      const { certificates, configurations } = client().zeroTrust.gateway;
      const made = await certificates.create({ account_id, validity_period_days: 30 });
      equal([made.binding_status, made.in_use, made.type], ["inactive", false, "gateway_managed"]);
      equal((await certificates.activate(made.id, { account_id, body: {} })).binding_status, "available");
      const choose = (id) => configurations.edit({ account_id, settings: { certificate: { id } } });
      const before = (await configurations.get({ account_id })).settings.certificate.id;
      equal((await choose(made.id)).settings.certificate.id, made.id);
      await refused(409, 2101, () => certificates.delete(made.id, { account_id }));
      equal((await choose(before)).settings.certificate.id, before);
      ok((await all(certificates.list({ account_id }))).some((row) => row.id === made.id));
      await certificates.delete(made.id, { account_id });
      await refused(404, 2100, () => certificates.get(made.id, { account_id }));
    },
  },
  rules: {
    async the_reference_rule_comes_back_as_it_was_sent() {
      const { lists, rules } = client().zeroTrust.gateway;
      const ips = await lists.create({ account_id, name: "js API", type: "IP", items: [{ value: "10.10.0.5/32" }] });
      const sent = {
        name: "Don't inspect Kubernetes API",
        description: "Allow connections from kubectl to API",
        precedence: 10000321,
        enabled: true,
        action: "off",
        filters: ["http"],
        traffic: `any(http.conn.dst_ip[*] in $${ips.id.replaceAll("-", "")})`,
      };
      const made = await rules.create({ account_id, ...sent });
      const read = await rules.get(made.id, { account_id });
      for (const [field, value] of Object.entries(sent)) equal([made[field], read[field]], [value, value]);
      equal([read.identity, read.device_posture, read.rule_settings, read.version], ["", "", null, 1]);
      ok((await all(rules.list({ account_id }))).some((row) => row.id === made.id));
      await refused(409, 2053, () => lists.delete(ips.id, { account_id }));
      const changed = await rules.update(made.id, { account_id, ...sent, description: "changed" });
      equal([changed.description, changed.version, changed.precedence], ["changed", 2, 10000321]);
      const error = await refused(400, 2088, () =>
        rules.update(made.id, { account_id, ...sent, traffic: "http.foo == 1" }),
      );
      equal(error.error.errors[0].source.pointer, "/traffic");
      await rules.delete(made.id, { account_id });
      await refused(404, 2080, () => rules.get(made.id, { account_id }));
      await lists.delete(ips.id, { account_id });
    },
  },
  locations: {
    async a_location_comes_back_as_it_was_written() {
      const { locations } = client().zeroTrust.gateway;
      const networks = [{ network: "192.0.2.0/24" }];
      const made = await locations.create({ account_id, name: "js office", networks });
      const read = await locations.get(made.id, { account_id });
      for (const location of [made, read]) {
        equal([location.name, location.client_default, location.endpoints], ["js office", false, null]);
        equal([location.networks, location.doh_subdomain], [networks, made.doh_subdomain]);
      }
      const defaults = (await all(locations.list({ account_id }))).filter((row) => row.client_default);
      equal(defaults.length, 1);
      const changed = await locations.update(made.id, { account_id, name: "js home" });
      equal([changed.name, changed.networks], ["js home", null]);
      await refused(400, 2102, () => locations.create({ account_id, name: "bad", ecs_support: true }));
      await refused(400, 2102, () => locations.delete(defaults[0].id, { account_id }));
      await locations.delete(made.id, { account_id });
      await refused(404, 2100, () => locations.get(made.id, { account_id }));
    },
  },
  audit: {
    async a_cursor_walks_over_every_record_once() {
      const api = client();
      const tunnels = api.zeroTrust.tunnels.cloudflared;
      const made = [];
      for (let number = 0; number < 125; number++) {
        made.push((await tunnels.create({ account_id, name: `js-audit-${number}` })).id);
      }
      for (const id of made) await tunnels.delete(id, { account_id });
      const stretch = { account_id, since: "2020-01-01", before: "2100-01-01" };
      const rows = await all(api.accounts.logs.audit.list({ ...stretch, limit: 40 }));
      equal(new Set(rows.map((row) => row.id)).size, rows.length);
      const seen = rows.filter((row) => made.includes(row.resource.id));
      equal(
        seen.map((row) => `${row.resource.id} ${row.action.type}`).sort(),
        made.flatMap((id) => [`${id} create`, `${id} delete`]).sort(),
      );
    },
  },
  foreign: {
    async another_accounts_objects_are_not_there() {
      const [account, tunnel] = process.env.FOREIGN.split("/");
      const { tunnels, networks } = client().zeroTrust;
      await refused(403, 9109, () => tunnels.cloudflared.get(tunnel, { account_id: account }));
      await refused(404, 1003, () => tunnels.cloudflared.get(tunnel, { account_id }));
      await refused(404, 1003, () => tunnels.cloudflared.delete(tunnel, { account_id }));
      await refused(400, 1003, () => networks.routes.create({ account_id, network: "10.84.0.0/16", tunnel_id: tunnel }));
    },
  },
};

let failed = 0;
let count = 0;
for (const group of process.argv.slice(2)) {
  if (!(group in checks)) throw new Error(`no such group: ${group}`);
  for (const [name, run] of Object.entries(checks[group])) {
    count += 1;
    try {
      await run();
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      const where = error.stack.split("\n").find((line) => line.includes("checks.mjs")) ?? "";
      console.log(`FAILED ${name}${where}: ${error.cause ?? error}`.replaceAll("\n", " "));
    }
  }
}
console.log(`done ${count} with cloudflare ${version}`);
process.exitCode = failed > 0 ? 1 : 0;
