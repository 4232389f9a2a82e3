//! The API against its own description: schemathesis, unmodified, makes requests of the OpenAPI document that `adit up`
//! serves, right ones and wrong ones, and looks whether the answers are what the document says.
//!
//! `testbed/clients/schemathesis.toml` says what it looks at. It runs on the edge's own host, where no token is limited to
//! a number of requests.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use adit_testbed::chain::Chain;
use http::Method;
use serde_json::{Value, json};

/// Where the edge serves the API to its own host without TLS.
const PLAIN: &str = "127.0.0.1:8780";

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_what_the_document_says() {
    // Always the same requests, but for the ids in them.
    schemathesis(&["--max-examples", "3", "--seed", "5"]).await;
}

/// Run by `make test-long`.
mod long {
    #[tokio::test(flavor = "multi_thread")]
    async fn hundreds_of_answers_of_each_operation_are_what_the_document_says() {
        super::schemathesis(&["--max-examples", "200"]).await;
    }
}

/// Runs it on a new installation that has something of most kinds.
async fn schemathesis(arguments: &[&str]) {
    let mut chain = Chain::new().unwrap();
    chain.edge_flags = vec!["--http".into(), PLAIN.into()];
    chain.start_edge().await.unwrap();
    let there = furnish(&chain).await;
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    let program = clients.join("../../.cache/clients/schemathesis/bin/schemathesis");
    assert!(program.exists(), "{} is missing: run testbed/setup.sh", program.display());
    let read = |name: &str| fs::read_to_string(chain.data().join(name)).unwrap().trim().to_owned();
    let mut command: Command = chain.world.edge.command("env");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", chain.dir());
    command.env("CLOUDFLARE_API_TOKEN", read("admin-token")).env("ACCOUNT", read("account-id")).envs(there);
    command
        .current_dir(chain.dir())
        .arg(&program)
        .arg("--config-file")
        .arg(clients.join("schemathesis.toml"));
    command.args([
        "run",
        &format!("http://{PLAIN}/client/v4/openapi.json"),
        "--no-color",
        "--continue-on-failure",
    ]);
    // One worker: two threads that read Python at once can break its parser (cpython issue 106905).
    command.args(["--generation-database", "none", "--warnings", "off", "--workers", "1"]).args(arguments);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("Tested: "), "{}: {text}{stderr}", output.status);
    eprintln!("{}", text.lines().filter(|line| line.contains("generated")).collect::<String>().trim());
}

/// One of most things: the variables by which `schemathesis.toml` knows them.
async fn furnish(chain: &Chain) -> Vec<(&'static str, String)> {
    let api = chain.api().unwrap();
    let post = async |path: &str, body: Value| {
        let made = api.result(&chain.world.edge, Method::POST, path, Some(&body)).await.unwrap();
        made["id"].as_str().unwrap().to_owned()
    };
    let tunnel = post("cfd_tunnel", json!({ "name": "k8s", "config_src": "cloudflare" })).await;
    let route = post("teamnet/routes", json!({ "network": "10.10.0.0/24", "tunnel_id": tunnel })).await;
    let list = post("gateway/lists", json!({ "name": "ips", "type": "IP", "items": ["10.10.0.5"] })).await;
    let traffic = format!("any(http.conn.dst_ip[*] in ${})", list.replace('-', ""));
    let rule = json!({ "name": "off", "action": "off", "enabled": true, "traffic": traffic });
    let rule = post("gateway/rules", rule).await;
    let service_token = post("access/service_tokens", json!({ "name": "ci" })).await;
    let member = json!({ "email": "ann@example.com", "roles": ["ad17000000000000000000000000a001"] });
    let member = post("members", member).await;
    vec![
        ("TUNNEL", tunnel),
        ("ROUTE", route),
        ("LIST", list),
        ("RULE", rule),
        ("SERVICE_TOKEN", service_token),
        ("MEMBER", member),
    ]
}
