//! Several accounts in one installation: `adit account`, and what keeps them apart on the path of a flow.

use std::io::Write as _;
use std::process::{Output, Stdio};
use std::time::Duration;

use adit_testbed::api::Api;
use adit_testbed::chain::{CONNECTIONS, Chain, Tunnel};
use adit_testbed::net::{API_V4, EDGE_V4, PRIVATE_V4};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const PORT: u16 = 9200;
const LIMIT: Duration = Duration::from_secs(20);

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
pub(crate) fn create(chain: &Chain, name: &str) -> (String, String) {
    let made = account(chain, &["create", name, "-o", "json"], "");
    assert!(made.status.success(), "{made:?}");
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("id"), text("token"))
}

pub(crate) fn api_of(chain: &Chain, (id, token): &(String, String)) -> Api {
    Api::of_account((EDGE_V4, 443).into(), &chain.data(), id, token).unwrap()
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
    let body = json!({ "name": "k8s" });
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

#[tokio::test(flavor = "multi_thread")]
async fn who_logs_in_with_a_token_works_in_the_tokens_account() {
    let mut chain = Chain::new().unwrap();
    chain.start_edge().await.unwrap();
    chain.create_tunnel("of-the-first").await.unwrap();
    let (id, token) = create(&chain, "staging");
    let run = |arguments: &[&str], token: Option<&str>| {
        let mut command = chain.adit(&chain.world.edge);
        command.current_dir(chain.dir()).env("HOME", chain.dir()).arg("tunnel").args(arguments);
        command.envs(token.map(|token| ("ADIT_API_TOKEN", token))).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let ca = chain.data().join("ca.pem");
    let ca = ca.to_str().unwrap();
    run(&["login", "https://localhost", "--ca", ca], Some(&token));
    let made = run(&["create", "-o", "json", "of-staging"], None);
    let listed = run(&["list"], None);
    assert!(listed.contains("of-staging") && !listed.contains("of-the-first"), "{listed}");
    let made: Value = serde_json::from_str(&made).unwrap();
    let credentials = chain.dir().join(format!(".cloudflared/{}.json", made["id"].as_str().unwrap()));
    let credentials: Value = serde_json::from_slice(&std::fs::read(credentials).unwrap()).unwrap();
    assert_eq!(credentials["AccountTag"], id);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_networks_of_two_accounts_lead_each_to_its_own_tunnel() {
    let mut chain = Chain::with_connectors(1).await.unwrap();
    tokio::spawn(tell_pods(chain.world.cluster.listen((API_V4, PORT).into()).unwrap()));
    let staging = create(&chain, "staging");
    let theirs = api_of(&chain, &staging);
    let tunnel = tunnel_of(&chain, &theirs).await;
    let body = json!({ "network": PRIVATE_V4, "tunnel_id": tunnel.id });
    theirs.result(&chain.world.edge, Method::POST, "teamnet/routes", Some(&body)).await.unwrap();
    // The secret of a tunnel is worth nothing under another account's name.
    let mut crossed = tunnel.clone();
    crossed.credentials["AccountTag"] = chain.api().unwrap().account().into();
    chain.start_connector(&crossed).unwrap();
    chain.connectors[1].process.wait_for_line("Unauthorized", LIMIT).await.unwrap();
    chain.connectors[1].process.kill().await.unwrap();
    chain.start_connector(&tunnel).unwrap();
    chain.connectors[2].process.wait_for_line("Registered tunnel connection", LIMIT).await.unwrap();

    chain.start_agent().await.unwrap();
    chain.enroll().await.unwrap();
    chain.wait_for_agent("connected").await.unwrap();
    assert_eq!(reached_from(&chain).await, 0, "the first account's connector");
    let service = json!({ "name": "laptop" });
    let service = theirs
        .result(&chain.world.edge, Method::POST, "access/service_tokens", Some(&service))
        .await
        .unwrap();
    let text = |field: &str| service[field].as_str().unwrap();
    let service = format!("{}:{}", text("client_id"), text("client_secret"));
    let mut arguments = chain.enroll_args(&service, &chain.data().join("ca.pem"));
    arguments.push("--force".into());
    chain.agent_command(&arguments).await.unwrap();
    chain.wait_for_agent("connected").await.unwrap();
    assert_eq!(reached_from(&chain).await, 2, "the other account's");

    // The account goes, and with it what it has open: its device, and its connector's connections.
    let (mut held, _) = open(&chain).await;
    let mark = chain.edge.as_ref().unwrap().mark();
    let gone = account(&chain, &["delete", "staging", "--yes", "--cascade"], "");
    assert!(gone.status.success(), "{gone:?}");
    let ended = tokio::time::timeout(LIMIT, held.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "the flow is cut: {ended:?}");
    chain.wait_for_agent("reauth_required").await.unwrap();
    let edge = chain.edge.as_ref().unwrap();
    let registered: Vec<String> =
        edge.output().iter().filter_map(|line| connection(line, &tunnel.id)).collect();
    assert_eq!(registered.len(), CONNECTIONS);
    for connection in registered {
        let ended = format!("connection ended connection={connection}");
        edge.wait_for_line_after(mark, &ended, LIMIT).await.unwrap();
    }
    let (status, _) = theirs.call(&chain.world.edge, Method::GET, "cfd_tunnel", None).await.unwrap();
    assert_eq!(status, 401);
    let first = Tunnel { id: first_tunnel(&chain).await, ..tunnel };
    chain.wait_for_connections(&first, CONNECTIONS).await.unwrap();
}

/// The connection of a tunnel that a line of the edge's log tells of, if it tells of one that was registered.
fn connection(line: &str, tunnel: &str) -> Option<String> {
    let (_, told) = line.split_once("connection registered connection=")?;
    told.contains(&format!("tunnel={tunnel} ")).then(|| told.split(' ').next().unwrap_or_default().to_owned())
}

/// A tunnel of another account, of the same name as the first one's.
async fn tunnel_of(chain: &Chain, api: &Api) -> Tunnel {
    let body = json!({ "name": "api-zt", "tunnel_secret": "AQIDBAUGBwgBAgMEBQYHCAECAwQFBgcIAQIDBAUGBwg=" });
    let made = api.result(&chain.world.edge, Method::POST, "cfd_tunnel", Some(&body)).await.unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    let credentials = json!({
        "AccountTag": api.account(), "TunnelID": id, "TunnelName": "api-zt", "TunnelSecret": body["tunnel_secret"],
    });
    Tunnel { id, name: "api-zt".into(), credentials }
}

async fn first_tunnel(chain: &Chain) -> String {
    let tunnels = chain.call(Method::GET, "cfd_tunnel", None).await.unwrap();
    tunnels[0]["id"].as_str().unwrap().to_owned()
}

/// A service that says by which pod it was reached, and then holds the connection.
async fn tell_pods(listener: TcpListener) {
    while let Ok((mut stream, peer)) = listener.accept().await {
        tokio::spawn(async move {
            let std::net::IpAddr::V4(pod) = peer.ip() else { return };
            if stream.write_u8(pod.octets()[2]).await.is_ok() {
                // Whoever asked has seen what there was to see.
                let _ = stream.read(&mut [0; 16]).await;
            }
        });
    }
}

/// A connection to the service, and the pod through which it goes.
async fn open(chain: &Chain) -> (tokio::net::TcpStream, u8) {
    let mut stream = chain.world.laptop.connect_within((API_V4, PORT).into(), LIMIT).await.unwrap();
    let pod = tokio::time::timeout(LIMIT, stream.read_u8()).await.unwrap().unwrap();
    (stream, pod)
}

async fn reached_from(chain: &Chain) -> u8 {
    open(chain).await.1
}
