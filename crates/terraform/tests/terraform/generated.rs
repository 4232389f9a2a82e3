//! Generated configurations against adit's own API: after an apply, a plan is empty, whatever was left out, null or empty; so
//! it is after a change, and after an import.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use crate::api::Site;
use crate::engine::Engine;
use crate::real::{APPLY, DESTROY, Desk, NO_CHANGES};

/// Numbers from a seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    /// Leaves a key out, or sets it to null, or to something empty, or to this.
    fn maybe(&mut self, config: &mut Json, name: &str, empty: Json, value: Json) {
        match self.below(4) {
            0 => {}
            1 => config[name] = Json::Null,
            2 => config[name] = empty,
            _ => config[name] = value,
        }
    }
}

struct Run {
    site: Arc<Site>,
    engine: Engine,
    dice: Dice,
    /// For names and networks that nobody has yet.
    made: u64,
}

const KINDS: [&str; 6] = ["tunnel", "route", "network", "token", "list", "rule"];

impl Run {
    async fn new(seed: u64) -> Self {
        let site = Arc::new(Site::real().await);
        let engine = Engine::new(&site.base_url, &site.token).await;
        Self { site, engine, dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1), made: 0 }
    }

    fn name(&mut self) -> String {
        self.made += 1;
        let odd = self.dice.one(&["", " ", "\"quoted\"", "ü", "${x}", "%2F", "\\"]);
        format!("n{}{odd}x", self.made)
    }

    fn network(&mut self) -> String {
        self.made += 1;
        let [_, _, a, b] = u32::try_from(self.made).unwrap().to_be_bytes();
        match self.dice.below(4) {
            0 => format!("10.{a}.{b}.0/24"),
            1 => format!("10.{a}.{b}.1"),
            2 => format!("2001:DB8:{:x}::/48", self.made),
            _ => format!("2001:db8:{:X}::1/128", self.made),
        }
    }

    /// A tunnel that others may name.
    async fn tunnel(&mut self) -> String {
        let name = format!("base{}", self.made);
        self.made += 1;
        let config = json!({ "account_id": self.site.account, "name": name });
        self.engine.apply(&name, "cloudflare_zero_trust_tunnel_cloudflared", &config).await;
        self.engine.state(&name)["id"].as_str().unwrap().to_owned()
    }

    fn base(&self, fields: Json) -> Json {
        let mut config: Map<String, Json> = serde_json::from_value(fields).unwrap();
        config.insert("account_id".into(), self.site.account.clone().into());
        config.into()
    }

    fn configuration(&mut self, kind: &str, old: bool, tunnel: &str) -> (&'static str, Json) {
        let name = self.name();
        let secret = self.dice.one(&[
            "AQIDBAUGBwgBAgMEBQYHCAECAwQFBgcIAQIDBAUGBwg=",
            "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMzQ1Njc4OQ==",
        ]);
        let duration = self.dice.one(&["60m", "1h", "8760h", "1h30m", "forever", "5400s"]);
        match (kind, old) {
            ("tunnel", true) => {
                let mut config = self.base(json!({"name": name, "secret": secret}));
                let source = self.dice.one(&["local", "cloudflare"]);
                self.dice.maybe(&mut config, "config_src", Json::Null, source.into());
                (self.dice.one(&["cloudflare_argo_tunnel", "cloudflare_tunnel"]), config)
            }
            ("tunnel", false) => {
                let mut config = self.base(json!({ "name": name }));
                self.dice.maybe(&mut config, "tunnel_secret", Json::Null, secret.into());
                let source = self.dice.one(&["local", "cloudflare"]);
                self.dice.maybe(&mut config, "config_src", Json::Null, source.into());
                (self.dice.one(&["cloudflare_zero_trust_tunnel_cloudflared", "adit_tunnel"]), config)
            }
            ("route", old) => {
                let network = self.network();
                let mut config = self.base(json!({"network": network, "tunnel_id": tunnel}));
                self.dice.maybe(&mut config, "comment", "".into(), name.into());
                let kind = if old {
                    "cloudflare_tunnel_route"
                } else {
                    self.dice.one(&["cloudflare_zero_trust_tunnel_cloudflared_route", "adit_route"])
                };
                (kind, config)
            }
            ("network", old) => {
                let mut config = self.base(json!({ "name": name }));
                self.dice.maybe(&mut config, "comment", "".into(), "a note".into());
                self.dice.maybe(&mut config, "is_default_network", false.into(), false.into());
                let kind = if old {
                    "cloudflare_tunnel_virtual_network"
                } else {
                    "cloudflare_zero_trust_tunnel_cloudflared_virtual_network"
                };
                (kind, config)
            }
            ("list", old) => {
                let mut config = self.base(json!({ "name": name, "type": "IP" }));
                self.dice.maybe(&mut config, "description", "".into(), "a note".into());
                let values: Vec<String> = (0..self.dice.below(5)).map(|_| self.network()).collect();
                let item = |value: &String| match (old, value.len() % 3) {
                    (true, _) => json!(value),
                    (false, 0) => json!({ "value": value }),
                    (false, 1) => json!({ "value": value, "description": "" }),
                    (false, _) => json!({ "value": value, "description": "x" }),
                };
                let items = values.iter().map(item).collect();
                self.dice.maybe(&mut config, "items", json!([]), items);
                (if old { "cloudflare_teams_list" } else { "cloudflare_zero_trust_list" }, config)
            }
            ("rule", old) => self.rule(old, &name),
            (_, true) => {
                let mut config = self.base(json!({ "name": name }));
                self.dice.maybe(&mut config, "duration", Json::Null, duration.into());
                ("cloudflare_access_service_token", config)
            }
            (_, false) => {
                let mut config = self.base(json!({ "name": name }));
                self.dice.maybe(&mut config, "duration", Json::Null, duration.into());
                self.dice.maybe(&mut config, "client_secret_version", 1.into(), 2.into());
                let until = self.dice.one(&["2100-01-01T00:00:00Z", "2100-01-01T02:00:00+02:00"]);
                self.dice.maybe(&mut config, "previous_client_secret_expires_at", Json::Null, until.into());
                ("cloudflare_zero_trust_access_service_token", config)
            }
        }
    }

    fn rule(&mut self, old: bool, name: &str) -> (&'static str, Json) {
        self.made += 1;
        let mut config = self.base(json!({ "name": name, "action": "allow", "filters": ["http"] }));
        let traffic = self.dice.one(&[
            "http.request.host == \"a.example.com\"",
            "http.request.host   ==  \"a.example.com\"  ",
            "any(http.conn.dst_ip[*] in {10.0.0.0/8})",
        ]);
        self.dice.maybe(&mut config, "traffic", "".into(), traffic.into());
        self.dice.maybe(&mut config, "identity", "".into(), "".into());
        self.dice.maybe(&mut config, "device_posture", "".into(), "".into());
        self.dice.maybe(&mut config, "enabled", false.into(), true.into());
        let duration = self.dice.one(&["5m", "300s", "1h30m0s"]);
        let session = json!({ "enforce": true, "duration": duration });
        if old {
            config["description"] = self.dice.one(&["", "a note"]).into();
            config["precedence"] = self.made.into();
            let settings = json!([{ "check_session": [session] }]);
            self.dice.maybe(&mut config, "rule_settings", json!([{}]), settings);
            return ("cloudflare_teams_rule", config);
        }
        self.dice.maybe(&mut config, "description", "".into(), "a note".into());
        self.dice.maybe(&mut config, "precedence", Json::Null, self.made.into());
        let settings = json!({ "check_session": session, "override_ips": [], "block_reason": "" });
        self.dice.maybe(&mut config, "rule_settings", json!({}), settings);
        ("cloudflare_zero_trust_gateway_policy", config)
    }

    /// One object: made, imported by another engine, changed, deleted.
    async fn object(&mut self, tunnel: &str) {
        let what = self.dice.one(&KINDS);
        let old = self.dice.below(2) == 0;
        let (kind, config) = self.configuration(what, old, tunnel);
        self.engine.apply("object", kind, &config).await;

        let state = self.engine.state("object");
        let last = if kind == "cloudflare_tunnel_route" { "network" } else { "id" };
        let id = format!("{}/{}", self.site.account, state[last].as_str().unwrap());
        self.engine.import("copy", kind, &id).await;
        let copy = self.engine.state("copy");
        for (key, value) in state.as_object().unwrap() {
            let told = !value.is_null() && value != "" && key != "client_secret";
            let written = [
                "duration",
                "previous_client_secret_expires_at",
                "network",
                "id",
                "items",
                "traffic",
                "rule_settings",
            ];
            let same = !written.contains(&key.as_str());
            assert!(!(told && same) || copy[key] == *value, "{kind}.{key}: {} for {value}", copy[key]);
        }

        let (_, mut changed) = self.configuration(what, old, tunnel);
        if let Some(secret) = config.get("client_secret_version") {
            // It only rises.
            changed["client_secret_version"] = secret.clone();
        }
        self.engine.apply("object", kind, &changed).await;
        self.engine.destroy("object").await;
    }
}

async fn run(seeds: std::ops::Range<u64>, objects: usize) {
    for seed in seeds {
        let mut run = Run::new(seed).await;
        let tunnel = run.tunnel().await;
        for _ in 0..objects {
            run.object(&tunnel).await;
        }
    }
}

/// What Terraform reads as it is written: in its JSON, every text is a template.
fn literal(value: Json) -> Json {
    match value {
        Json::String(text) => text.replace("${", "$${").replace("%{", "%%{").into(),
        Json::Array(items) => items.into_iter().map(literal).collect(),
        Json::Object(members) => {
            members.into_iter().map(|(key, value)| (key, literal(value))).collect::<Map<_, _>>().into()
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => value,
    }
}

/// One configuration with this many objects, as Terraform's JSON. The same numbers give objects of the same kinds.
fn whole(run: &mut Run, chosen: &[(&'static str, bool)]) -> Json {
    let tunnel = "cloudflare_zero_trust_tunnel_cloudflared";
    let mut resources = json!({ tunnel: { "base": run.base(json!({ "name": "base" })) } });
    for (number, (what, old)) in chosen.iter().enumerate() {
        let (_, mut config) = run.configuration(what, *old, "");
        let kind = match (*what, old) {
            ("tunnel", true) => "cloudflare_tunnel",
            ("tunnel", false) => tunnel,
            ("route", true) => "cloudflare_tunnel_route",
            ("route", false) => "cloudflare_zero_trust_tunnel_cloudflared_route",
            ("network", true) => "cloudflare_tunnel_virtual_network",
            ("network", false) => "cloudflare_zero_trust_tunnel_cloudflared_virtual_network",
            ("list", true) => "cloudflare_teams_list",
            ("list", false) => "cloudflare_zero_trust_list",
            ("rule", true) => "cloudflare_teams_rule",
            ("rule", false) => "cloudflare_zero_trust_gateway_policy",
            (_, true) => "cloudflare_access_service_token",
            (_, false) => "cloudflare_zero_trust_access_service_token",
        };
        if config["precedence"].is_null() && *what == "rule" {
            // A place that is left to the API is behind all others: among rules that are made at the same time it could be
            // the place that one of them asks for.
            config["filters"] = json!(["dns"]);
            config["traffic"] = "".into();
            config["rule_settings"] = Json::Null;
        }
        if config.get("client_secret_version").is_some() {
            // It only rises.
            config["client_secret_version"] = 1.into();
        }
        let mut config = literal(config);
        if *what == "route" {
            config["tunnel_id"] = format!("${{{tunnel}.base.id}}").into();
        }
        resources[kind][format!("n{number}")] = config;
    }
    json!({ "resource": resources })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_terraform_plans_nothing_after_it_applied_generated_configurations() {
    real(1, 40).await;
}

async fn real(seed: u64, objects: usize) {
    let mut run = Run::new(seed).await;
    let chosen: Vec<(&str, bool)> =
        (0..objects).map(|number| (KINDS[number % KINDS.len()], run.dice.below(2) == 0)).collect();
    let desk = Desk::at(Arc::clone(&run.site));
    desk.write("main.tf.json", &whole(&mut run, &chosen).to_string());
    desk.expect(&[(&desk.init(), 0), APPLY, NO_CHANGES]);
    desk.write("main.tf.json", &whole(&mut run, &chosen).to_string());
    desk.expect(&[APPLY, NO_CHANGES, DESTROY]);
}

#[tokio::test]
async fn a_plan_after_an_apply_is_empty() {
    run(1..5, 12).await;
}

/// Run by `make test-long`.
mod long {
    #[tokio::test(flavor = "multi_thread")]
    async fn a_plan_after_an_apply_is_empty_ten_thousand_times() {
        super::run(1000..1100, 100).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_real_terraform_plans_nothing_after_it_applied_many_generated_configurations() {
        for seed in 2000..2010 {
            super::real(seed, 100).await;
        }
    }
}
