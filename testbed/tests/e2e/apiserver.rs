//! The testbed's API server against the real kubectl on loopback, nothing between: what fails here is no fault of the
//! network.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use adit_testbed::apiserver::Server;
use adit_testbed::kubectl::{Kubectl, write_kubeconfig};
use adit_testbed::pki::Pki;
use adit_testbed::process::Process;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(30);

struct Direct {
    dir: TempDir,
    kubectl: Kubectl,
    kubeconfig: PathBuf,
    address: SocketAddr,
}

impl Direct {
    async fn start(host: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(Server::new(&pki).unwrap().serve(listener));
        let kubeconfig = dir.path().join("kubeconfig");
        write_kubeconfig(&kubeconfig, &format!("https://{address}"), &pki).unwrap();
        let kubectl = Kubectl::main().unwrap();
        eprintln!("kubectl {} at {}", kubectl.version(), kubectl.path().display());
        Self { dir, kubectl, kubeconfig, address }
    }

    fn command(&self, args: &[&str]) -> Command {
        self.kubectl.command(None, &self.kubeconfig, args)
    }

    async fn output(&self, args: &[&str], stdin: &str) -> Output {
        let mut command = tokio::process::Command::from(self.command(args));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(stdin.as_bytes()).await.unwrap();
        drop(pipe);
        tokio::time::timeout(LIMIT, child.wait_with_output())
            .await
            .unwrap_or_else(|_| panic!("kubectl {args:?} does not end"))
            .unwrap()
    }

    async fn kubectl(&self, args: &[&str], stdin: &str) -> String {
        let output = self.output(args, stdin).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {args:?}: {stderr}");
        // Stderr holds warnings; a fallback to another protocol would be one.
        assert_eq!(stderr, "", "kubectl {args:?} warns");
        String::from_utf8(output.stdout).unwrap()
    }

    fn spawn(&self, name: &str, args: &[&str]) -> Process {
        Process::spawn(name, self.dir.path(), self.command(args)).unwrap()
    }

    async fn with_pod(self) -> Self {
        let created = self.kubectl(&["apply", "-f", "-"], POD).await;
        assert_eq!(created, "pod/web created\n");
        self
    }
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
    - {name: web, image: example/web:1}
";

fn config_map(value: &str) -> String {
    format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: settings}}, data: {{colour: {value}}}}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_reads_and_applies_over_both_families() {
    for host in ["127.0.0.1", "::1"] {
        let direct = Direct::start(host).await;
        let version = direct.kubectl(&["version"], "").await;
        assert!(version.contains("Server Version: v1.33.0+testbed"), "{version}");
        let namespaces = direct.kubectl(&["get", "namespaces", "-o", "name"], "").await;
        assert_eq!(namespaces, "namespace/default\nnamespace/kube-system\n");

        let apply = ["apply", "-f", "-"];
        assert_eq!(direct.kubectl(&apply, &config_map("red")).await, "configmap/settings created\n");
        assert_eq!(direct.kubectl(&apply, &config_map("red")).await, "configmap/settings unchanged\n");
        assert_eq!(direct.kubectl(&apply, &config_map("blue")).await, "configmap/settings configured\n");
        let colour = direct.kubectl(&["get", "cm", "settings", "-o", "jsonpath={.data.colour}"], "").await;
        assert_eq!(colour, "blue");
        assert_eq!(
            direct.kubectl(&["delete", "cm", "settings"], "").await,
            "configmap \"settings\" deleted\n"
        );
        let output = direct.output(&["get", "cm", "settings"], "").await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            stderr.contains("Error from server (NotFound): configmaps \"settings\" not found"),
            "{stderr}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_prints_tables_and_watches() {
    let direct = Direct::start("127.0.0.1").await;
    let mut watch = direct.spawn("watch", &["get", "pods", "--watch"]);
    let direct = direct.with_pod().await;
    watch.wait_for_line("Running", LIMIT).await.unwrap();
    let mark = watch.mark();
    direct.kubectl(&["label", "pod", "web", "seen=yes"], "").await;
    watch.wait_for_line_after(mark, "web", LIMIT).await.unwrap();
    assert!(watch.is_running());
    let pods = direct.kubectl(&["get", "pods", "-l", "app=web,seen=yes"], "").await;
    let mut lines = pods.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(lines.next().unwrap(), ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(lines.next().unwrap()[..3], ["web", "1/1", "Running"]);
    assert_eq!(lines.next(), None);
    assert_eq!(direct.kubectl(&["delete", "pod", "web"], "").await, "pod \"web\" deleted\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_follows_logs() {
    let direct = Direct::start("127.0.0.1").await.with_pod().await;
    let first = direct.kubectl(&["logs", "web"], "").await;
    assert_eq!(first, "web line 0\nweb line 1\nweb line 2\n");
    let mut follow = direct.spawn("logs", &["logs", "-f", "web"]);
    follow.wait_for_line("web line 5", LIMIT).await.unwrap();
    assert!(follow.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_execs_with_and_without_input() {
    let direct = Direct::start("127.0.0.1").await.with_pod().await;
    assert_eq!(direct.kubectl(&["exec", "web", "--", "echo", "a", "b c"], "").await, "a b c\n");
    assert_eq!(direct.kubectl(&["exec", "-i", "web", "--", "cat"], "to and fro\n").await, "to and fro\n");
    let long = "0123456789abcdef".repeat(1 << 16);
    assert_eq!(direct.kubectl(&["exec", "-i", "web", "--", "cat"], &long).await, long);
    let output =
        direct.output(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 3"], "").await;
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\ncommand terminated with exit code 3\n");
    let output = direct.output(&["exec", "web", "--", "reboot"], "").await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("not found in this pod"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_forwards_ports() {
    let direct = Direct::start("127.0.0.1").await.with_pod().await;
    let forward = direct.spawn("port-forward", &["port-forward", "pod/web", ":80", ":7", ":1"]);
    let local = async |remote: &str| -> SocketAddr {
        let line = forward.wait_for_line(&format!("-> {remote}"), LIMIT).await.unwrap();
        let address = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next());
        address.unwrap_or_else(|| panic!("{line}")).parse().unwrap()
    };
    let (http, echo, closed) = (local("80").await, local("7").await, local("1").await);

    let mut stream = TcpStream::connect(http).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nhello from web\n"), "{answer}");

    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut read, mut write) = TcpStream::connect(echo).await.unwrap().into_split();
    let writing = {
        let sent = sent.clone();
        tokio::spawn(async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        })
    };
    let mut got = Vec::new();
    read.read_to_end(&mut got).await.unwrap();
    writing.await.unwrap();
    assert!(got == sent, "{} bytes came back of {}", got.len(), sent.len());

    let mut stream = TcpStream::connect(closed).await.unwrap();
    // Kubectl closes or resets it.
    let _ = stream.read_to_end(&mut Vec::new()).await;
    forward.wait_for_line("connection refused", LIMIT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_is_refused_in_the_handshake() {
    let direct = Direct::start("127.0.0.1").await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(direct.dir.path().join("ca.pem")).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(direct.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    // TLS 1.3: the client has finished before the server says no.
    let mut stream = connector.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
    let error = stream.read_u8().await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}
