//! Several accounts in one installation: `adit account`, and what keeps them apart on the path of a flow.

use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use adit_testbed::api::Api;
use adit_testbed::chain::Chain;
use adit_testbed::net::EDGE_V4;
use http::Method;
use serde_json::Value;

/// `adit account ARGS` on the edge's host, with this on its standard input.
fn account(chain: &Chain, arguments: &[&str], typed: &str) -> Output {
    let mut command = chain.adit(&chain.world.edge);
    command.arg("account").arg("--data").arg(chain.data()).args(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that does not ask may have ended.
    let _ = child.stdin.take().unwrap().write_all(typed.as_bytes());
    child.wait_with_output().unwrap()
}

/// Another account: its id and its token.
fn create(chain: &Chain, name: &str) -> (String, String) {
    let made = account(chain, &["create", name, "-o", "json"], "");
    assert!(made.status.success(), "{made:?}");
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("id"), text("token"))
}

fn api_of(chain: &Chain, (id, token): &(String, String)) -> Api {
    Api::of_account((EDGE_V4, 443).into(), Path::new(&chain.data()), id, token).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_made_listed_and_deleted_on_the_machine_of_the_edge() {
    let mut chain = Chain::new().unwrap();
    let early = account(&chain, &["list"], "");
    assert!(String::from_utf8_lossy(&early.stderr).contains("is no data directory"), "{early:?}");
    chain.start_edge().await.unwrap();

    let made = create(&chain, "staging");
    let again = account(&chain, &["create", "staging"], "");
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("there is an account of that name"), "{again:?}");
    let api = api_of(&chain, &made);
    let edge = &chain.world.edge;
    let networks = api.result(edge, Method::GET, "teamnet/virtual_networks", None).await.unwrap();
    assert_eq!(networks[0]["name"], "default");
    let body = serde_json::json!({ "name": "k8s" });
    api.result(edge, Method::POST, "cfd_tunnel", Some(&body)).await.unwrap();

    let refused = account(&chain, &["delete", "staging", "--yes"], "");
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("the account has 1 tunnel") && told.contains("--cascade"), "{told}");
    let first = account(&chain, &["delete", "adit", "--yes", "--cascade"], "");
    assert!(String::from_utf8_lossy(&first.stderr).contains("first account stays"), "{first:?}");
    let wrong = account(&chain, &["delete", "staging", "--cascade"], "other\n");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("nothing is deleted"), "{wrong:?}");
    api.result(edge, Method::GET, "cfd_tunnel", None).await.unwrap();

    // Without an `adit up` the database itself is used, and what was done is there when it runs again.
    chain.edge.take().unwrap().stop().await.unwrap();
    let other = create(&chain, "testing");
    let gone = account(&chain, &["delete", &made.0, "--cascade"], "staging\n");
    assert!(gone.status.success(), "{gone:?}");
    chain.start_edge().await.unwrap();
    let listed = account(&chain, &["list"], "");
    let listed = String::from_utf8(listed.stdout).unwrap();
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(names, ["NAME", "adit", "testing"], "{listed}");
    let edge = &chain.world.edge;
    api_of(&chain, &other).result(edge, Method::GET, "cfd_tunnel", None).await.unwrap();
    let (status, _) = api.call(edge, Method::GET, "cfd_tunnel", None).await.unwrap();
    assert_eq!(status, 401, "its token is gone with it");
}
