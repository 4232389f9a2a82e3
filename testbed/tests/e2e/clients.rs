//! The published clients of the v4 API, unmodified and told nothing but the base URL, what to trust and a token (contract D,
//! section 15).
//!
//! The checks are `testbed/clients/checks.{py,mjs}`; `testbed/setup.sh clients` installs what they use. The clients run on
//! the laptop, which reaches the edge and nothing else; what makes more requests than one token may from afar (contract D,
//! 4) runs on the edge's own host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use adit_testbed::chain::Chain;
use adit_testbed::net::EDGE_V4;
use http::Method;
use serde_json::json;

use crate::accounts;

/// Where the edge serves the API to its own host without TLS.
const PLAIN: &str = "127.0.0.1:8780";
/// What `make test` has time for.
const GROUPS: [&str; 12] = [
    "tunnels",
    "paging",
    "routes",
    "tokens",
    "service-tokens",
    "devices",
    "lists",
    "certificates",
    "rules",
    "locations",
    "audit",
    "foreign",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_works() {
    Site::start().await.python("5.9.0", &GROUPS);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_of_the_generation_before_works() {
    Site::start().await.python("4.3.1", &GROUPS);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_client_works() {
    Site::start().await.typescript(&GROUPS);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrangler_lists_makes_shows_and_deletes_tunnels() {
    let site = Site::start().await;
    let wrangler = |arguments: &[&str]| {
        let output = site.wrangler(arguments);
        let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let works = |arguments: &[&str], part: &str| {
        let (code, text) = wrangler(arguments);
        assert!(code == Some(0) && text.contains(part), "{arguments:?}: {code:?} without {part:?}: {text}");
    };
    let fails = |arguments: &[&str], part: &str| {
        let (code, text) = wrangler(arguments);
        assert!(code == Some(1) && text.contains(part), "{arguments:?}: {code:?} without {part:?}: {text}");
    };
    works(&["list"], "No");
    works(&["create", "of-wrangler"], "of-wrangler");
    fails(&["create", "of-wrangler"], "You already have a tunnel with this name");
    works(&["list"], "of-wrangler");
    works(&["info", "of-wrangler"], "inactive");
    works(&["delete", "of-wrangler", "--force"], "Tunnel deleted");
    fails(&["info", "of-wrangler"], "neither the ID nor the name of any of your tunnels");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_of_the_edges_own_host_needs_the_base_url_only() {
    let site = Site { far: false, ..Site::start().await };
    site.python("5.9.0", &["tunnels"]);
    site.typescript(&["tunnels"]);
}

/// Run by `make test-long`.
mod long {
    use super::Site;

    #[tokio::test(flavor = "multi_thread")]
    async fn every_client_sees_each_of_1001_tunnels_once() {
        let site = Site { far: false, ..Site::start().await };
        site.python("5.9.0", &["long-paging"]);
        site.python("4.3.1", &["long-paging"]);
        site.typescript(&["long-paging"]);
    }
}

/// An edge with two accounts, a device of the first, and clients of the first.
struct Site {
    chain: Chain,
    /// Whether the clients are on the laptop.
    far: bool,
    /// The other account and a tunnel of it, as `ACCOUNT/TUNNEL`.
    foreign: String,
}

impl Site {
    async fn start() -> Self {
        let mut chain = Chain::new().unwrap();
        chain.edge_flags = vec!["--http".into(), PLAIN.into()];
        chain.start_edge().await.unwrap();
        chain.start_agent().await.unwrap();
        chain.enroll().await.unwrap();
        let other = accounts::create(&chain, "another");
        let api = accounts::api_of(&chain, &other);
        let tunnel = json!({ "name": "of-another" });
        let tunnel = api.result(&chain.world.edge, Method::POST, "cfd_tunnel", Some(&tunnel)).await.unwrap();
        let foreign = format!("{}/{}", other.0, tunnel["id"].as_str().unwrap());
        Self { chain, far: true, foreign }
    }

    fn python(&self, version: &str, groups: &[&str]) {
        let python = installed(&format!("python-{version}/bin/python"));
        let mut command = self.command(&python);
        // What a published package thinks of its own oldest operations is no matter here.
        command.args(["-B", "-W", "ignore"]).arg(script("checks.py")).args(groups);
        judge(&run(&mut command), version);
    }

    fn typescript(&self, groups: &[&str]) {
        let mut command = self.command(&installed("bin/node"));
        command.arg(script("checks.mjs")).args(groups).env("CLIENTS", installed("npm/node_modules"));
        judge(&run(&mut command), "7.3.0");
    }

    fn wrangler(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(&installed("bin/node"));
        command.arg(installed("npm/node_modules/wrangler/bin/wrangler.js")).arg("tunnel").args(arguments);
        run(&mut command)
    }

    /// A program that finds the edge in its variables, and nothing else there.
    fn command(&self, program: &Path) -> Command {
        let read = |name: &str| fs::read_to_string(self.chain.data().join(name)).unwrap().trim().to_owned();
        let (host, base) = if self.far {
            (&self.chain.world.laptop, format!("https://{EDGE_V4}/client/v4"))
        } else {
            (&self.chain.world.edge, format!("http://{PLAIN}/client/v4"))
        };
        let (token, account, ca) =
            (read("admin-token"), read("account-id"), self.chain.data().join("ca.pem"));
        let mut command = host.command("env");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("HOME", self.chain.dir()).current_dir(self.chain.dir());
        command.env("CLOUDFLARE_BASE_URL", &base).env("CLOUDFLARE_API_BASE_URL", &base);
        command.env("CLOUDFLARE_API_TOKEN", token);
        command.env("CLOUDFLARE_ACCOUNT_ID", &account).env("ACCOUNT", &account).env("FOREIGN", &self.foreign);
        if self.far {
            command.env("SSL_CERT_FILE", &ca).env("NODE_EXTRA_CA_CERTS", &ca);
        }
        command.env("CI", "1").env("NO_COLOR", "1").env("WRANGLER_SEND_METRICS", "false");
        command.arg(program);
        command
    }
}

/// Fails with the checks that failed.
#[track_caller]
fn judge(output: &Output, version: &str) {
    let text = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<&str> = text.lines().filter(|line| line.starts_with("FAILED ")).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let ended = text.lines().last().is_some_and(|line| line.starts_with("done ") && line.ends_with(version));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(ended && output.status.success(), "{}: {text}{stderr}", output.status);
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

/// What `testbed/setup.sh clients` has put here.
fn installed(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/clients").join(path);
    assert!(path.exists(), "{} is missing: run testbed/setup.sh", path.display());
    path
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}
