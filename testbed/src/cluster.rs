//! The API server behind the network: the testbed's own, or a real one.
//!
//! When `KUBE_APISERVER` names a kube-apiserver and an etcd is there (`ETCD`, or beside it, or on the path), they run;
//! a pod then needs a kubelet, which is the testbed's. Either way it serves 198.51.100.101:6443 and
//! [2001:db8::101]:6443 and takes the client certificate of [`Pki::client`].

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::apiserver::Clients;
use crate::kubectl::{Kubectl, Session};
use crate::kubelet::Kubelet;
use crate::net::{API_V4, API_V6, Host, Namespace, World, api_address};
use crate::pki::Pki;
use crate::process::{Process, built};

/// The port of the API server.
pub const API_PORT: u16 = 6443;
/// A real API server takes this long at worst, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(90);

/// An address family, and so one of the two URLs of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// 198.51.100.101
    V4,
    /// 2001:db8::101
    V6,
}

impl Family {
    /// Both, in the order in which tests go through them.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The API server's URL.
    pub fn server(self) -> String {
        match self {
            Self::V4 => format!("https://{API_V4}:{API_PORT}"),
            Self::V6 => format!("https://[{API_V6}]:{API_PORT}"),
        }
    }
}

/// A running API server in the `cluster` of a world.
#[derive(Debug)]
pub struct Cluster {
    kubelet: Option<Kubelet>,
    processes: Vec<Process>,
    pki: Pki,
    dir: PathBuf,
    description: String,
}

impl Cluster {
    /// Starts it; logs and certificates go to `dir`.
    pub async fn start(world: &World, dir: &Path) -> Result<Self> {
        Self::serving(world, dir, Clients::Certificate).await
    }

    /// The same for these clients. A real API server takes both.
    pub async fn serving(world: &World, dir: &Path, clients: Clients) -> Result<Self> {
        let pki = Pki::open(&dir.join("certificates"))?;
        let mut cluster = Self {
            kubelet: None,
            processes: Vec::new(),
            pki,
            dir: dir.to_owned(),
            description: "the testbed's own".to_owned(),
        };
        match std::env::var_os("KUBE_APISERVER") {
            Some(apiserver) => cluster.start_real(world, Path::new(&apiserver)).await?,
            None => cluster.start_own(world, clients).await?,
        }
        Ok(cluster)
    }

    /// Which API server it is.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Its certificates.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The programs, for their logs.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// An engineer on a host.
    pub fn session<'a>(&self, host: &'a Host, kubectl: Kubectl, family: Family) -> Result<Session<'a>> {
        let path = self.dir.join(format!("kubeconfig-{}-{}-{family:?}", host.role(), kubectl.version()));
        Session::new(kubectl, Some(host), &path, &family.server(), &self.pki)
    }

    async fn start_own(&mut self, world: &World, clients: Clients) -> Result<()> {
        let mut command = world.cluster.command(built("testbed-apiserver")?);
        command.arg("--certificates").arg(self.dir.join("certificates"));
        if clients == Clients::Token {
            command.args(["--clients", "token"]);
        }
        for address in api_address(API_PORT) {
            command.args(["--listen", &address.to_string()]);
        }
        let apiserver = Process::spawn("apiserver", &self.dir, command)?;
        for address in api_address(API_PORT) {
            apiserver.wait_for_line(&format!("serving on {address}"), START_LIMIT).await?;
        }
        self.processes.push(apiserver);
        Ok(())
    }

    async fn start_real(&mut self, world: &World, apiserver: &Path) -> Result<()> {
        let etcd = find_etcd(apiserver)?;
        let host: &Namespace = &world.cluster;
        let mut command = host.command(etcd);
        command.arg("--data-dir").arg(self.dir.join("etcd")).args([
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
        ]);
        let etcd = Process::spawn("etcd", &self.dir, command)?;
        etcd.wait_for_line("ready to serve client requests", START_LIMIT).await?;
        self.processes.push(etcd);

        let path = |path: PathBuf| path.display().to_string();
        let (certificate, key) = self.pki.server();
        let (client_certificate, client_key) = self.pki.client();
        let (public, private) = self.pki.service_account();
        let mut command = host.command(apiserver);
        command.args([
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            "--bind-address=::".to_owned(),
            format!("--secure-port={API_PORT}"),
            format!("--advertise-address={API_V4}"),
            format!("--cert-dir={}", path(self.dir.join("apiserver"))),
            format!("--tls-cert-file={}", path(certificate)),
            format!("--tls-private-key-file={}", path(key)),
            format!("--client-ca-file={}", path(self.pki.ca())),
            format!("--token-auth-file={}", path(self.pki.tokens())),
            "--anonymous-auth=false".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            // Without a controller manager no namespace has a service account.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", path(public)),
            format!("--service-account-signing-key-file={}", path(private)),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            format!("--kubelet-certificate-authority={}", path(self.pki.ca())),
            format!("--kubelet-client-certificate={}", path(client_certificate)),
            format!("--kubelet-client-key={}", path(client_key)),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ]);
        self.processes.push(Process::spawn("apiserver", &self.dir, command)?);
        self.wait_until_ready(world).await?;
        self.kubelet = Some(Kubelet::start(host.clone(), API_PORT, &self.pki).await?);
        Ok(())
    }

    async fn wait_until_ready(&mut self, world: &World) -> Result<()> {
        let kubeconfig = self.dir.join("kubeconfig-admin");
        let session = Session::new(
            Kubectl::main()?,
            Some(&world.cluster),
            &kubeconfig,
            &Family::V4.server(),
            &self.pki,
        )?;
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        loop {
            match session.run(&["get", "namespace", "default", "-o", "name"], "").await {
                Ok(_) => break,
                Err(error) if tokio::time::Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
            let Some(apiserver) = self.processes.last_mut() else { bail!("no API server") };
            if !apiserver.is_running() {
                bail!("kube-apiserver ended:\n{}", apiserver.output().join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let version = session.run(&["version"], "").await?;
        let version = version.lines().find_map(|line| line.strip_prefix("Server Version: ")).unwrap_or("?");
        self.description = format!("kube-apiserver {version}");
        Ok(())
    }
}

fn find_etcd(apiserver: &Path) -> Result<PathBuf> {
    if let Some(etcd) = std::env::var_os("ETCD") {
        return Ok(etcd.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    apiserver
        .parent()
        .map(Path::to_owned)
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join("etcd"))
        .find(|etcd| fs::metadata(etcd).is_ok_and(|found| found.is_file()))
        .context("KUBE_APISERVER is set, but there is no etcd: set ETCD")
}
