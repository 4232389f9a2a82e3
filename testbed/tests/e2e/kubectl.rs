//! What an engineer does with kubectl, once over each path: directly (`apiserver`) and through the network.

use std::net::SocketAddr;
use std::time::Duration;

use adit_testbed::chain::Chain;
use adit_testbed::cluster::{Cluster, Family};
use adit_testbed::kubectl::{Kubectl, Session};
use adit_testbed::net::World;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const LIMIT: Duration = Duration::from_secs(30);

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: worker
  containers:
    - {name: web, image: example/web:1}
";

fn config_map(colour: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{colour: {colour}}}\n")
}

async fn run(session: &Session<'_>, args: &[&str]) -> String {
    session.run(args, "").await.unwrap()
}

/// Everything that a person does, and nothing left behind.
pub(crate) async fn check_all(session: &Session<'_>) {
    eprintln!("kubectl {} at {}", session.kubectl().version(), session.kubectl().path().display());
    check_version_and_get(session).await;
    check_apply(session).await;
    check_watch(session).await;
    check_logs(session).await;
    check_exec(session).await;
    check_port_forward(session).await;
    assert!(run(session, &["delete", "pod", "web", "--now"]).await.starts_with("pod \"web\" deleted"));
}

async fn check_version_and_get(session: &Session<'_>) {
    let version = run(session, &["version"]).await;
    assert!(version.contains("Server Version: v1."), "{version}");
    let namespaces = run(session, &["get", "namespaces", "-o", "name"]).await;
    assert!(namespaces.contains("namespace/default\n") && namespaces.contains("namespace/kube-system\n"));
    let output = session.output(&["get", "configmap", "absent"], "").await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("Error from server (NotFound): configmaps \"absent\" not found"), "{stderr}");
}

async fn check_apply(session: &Session<'_>) {
    let apply = async |value| session.run(&["apply", "-f", "-"], &config_map(value)).await.unwrap();
    assert_eq!(apply("red").await, "configmap/settings created\n");
    assert_eq!(apply("red").await, "configmap/settings unchanged\n");
    assert_eq!(apply("blue").await, "configmap/settings configured\n");
    assert_eq!(run(session, &["get", "cm", "settings", "-o", "jsonpath={.data.colour}"]).await, "blue");
    // Newer ones add from where.
    assert!(run(session, &["delete", "cm", "settings"]).await.starts_with("configmap \"settings\" deleted"));
}

/// Leaves the pod.
async fn check_watch(session: &Session<'_>) {
    let mut watch = session.spawn("watch", &["get", "pods", "--watch"]).unwrap();
    assert_eq!(session.run(&["apply", "-f", "-"], POD).await.unwrap(), "pod/web created\n");
    watch.wait_for_line("Running", LIMIT).await.unwrap();
    let mark = watch.mark();
    run(session, &["label", "pod", "web", "seen=yes"]).await;
    watch.wait_for_line_after(mark, "web", LIMIT).await.unwrap();
    assert!(watch.is_running());
    let pods = run(session, &["get", "pods", "-l", "app=web,seen=yes"]).await;
    let mut lines = pods.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(lines.next().unwrap(), ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(lines.next().unwrap()[..3], ["web", "1/1", "Running"]);
    assert_eq!(lines.next(), None);
}

async fn check_logs(session: &Session<'_>) {
    assert_eq!(run(session, &["logs", "web"]).await, "web line 0\nweb line 1\nweb line 2\n");
    let mut follow = session.spawn("logs", &["logs", "-f", "web"]).unwrap();
    follow.wait_for_line("web line 5", LIMIT).await.unwrap();
    assert!(follow.is_running());
}

async fn check_exec(session: &Session<'_>) {
    assert_eq!(run(session, &["exec", "web", "--", "echo", "a", "b c"]).await, "a b c\n");
    let cat = ["exec", "-i", "web", "--", "cat"];
    let long = "0123456789abcdef".repeat(1 << 16);
    assert_eq!(session.run(&cat, "to and fro\n").await.unwrap(), "to and fro\n");
    assert!(session.run(&cat, &long).await.unwrap() == long);
    let failing = ["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 3"];
    let output = session.output(&failing, "").await.unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\ncommand terminated with exit code 3\n");
    let output = session.output(&["exec", "web", "--", "reboot"], "").await.unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("not found in this pod"), "{output:?}");
}

async fn check_port_forward(session: &Session<'_>) {
    let forward = session.spawn("port-forward", &["port-forward", "pod/web", ":80", ":7", ":1"]).unwrap();
    let local = async |remote: &str| -> SocketAddr {
        let line = forward.wait_for_line(&format!("-> {remote}"), LIMIT).await.unwrap();
        let address = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next());
        address.unwrap_or_else(|| panic!("{line}")).parse().unwrap()
    };
    let (http, echo, closed) = (local("80").await, local("7").await, local("1").await);

    let mut stream = session.connect(http).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nhello from web\n"), "{answer}");

    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut read, mut write) = session.connect(echo).await.unwrap().into_split();
    let mut got = Vec::new();
    let (written, _) = tokio::try_join!(
        async {
            write.write_all(&sent).await?;
            write.shutdown().await
        },
        read.read_to_end(&mut got),
    )
    .unwrap();
    assert_eq!(written, ());
    assert!(got == sent, "{} bytes came back of {}", got.len(), sent.len());

    let mut stream = session.connect(closed).await.unwrap();
    // Kubectl closes or resets it.
    let _ = stream.read_to_end(&mut Vec::new()).await;
    forward.wait_for_line("connection refused", LIMIT).await.unwrap();
}

/// No network under test between: the API server itself, the real one where there is one.
#[tokio::test(flavor = "multi_thread")]
async fn the_clusters_api_server_serves_kubectl_in_the_cluster() {
    let (world, dir) = (World::new().unwrap(), tempfile::tempdir().unwrap());
    let cluster = Cluster::start(&world, dir.path()).await.unwrap();
    eprintln!("API server: {}", cluster.description());
    for family in Family::BOTH {
        check_all(&cluster.session(&world.cluster, Kubectl::main().unwrap(), family).unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_kubectl_does_everything_over_both_families() {
    through_the_chain(Kubectl::main().unwrap()).await;
}

async fn through_the_chain(kubectl: Kubectl) {
    let chain = Chain::start().await.unwrap();
    let cluster = Cluster::start(&chain.world, chain.dir()).await.unwrap();
    eprintln!("API server: {}", cluster.description());
    for family in Family::BOTH {
        check_all(&cluster.session(&chain.world.laptop, kubectl.clone(), family).unwrap()).await;
    }
}

/// Run by `make test-long`.
pub(crate) mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_older_kubectl_does_everything() {
        through_the_chain(Kubectl::minor(31).unwrap()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_newest_kubectl_does_everything() {
        through_the_chain(Kubectl::minor(36).unwrap()).await;
    }
}
