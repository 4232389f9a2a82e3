//! The life of a plugin: it is started by an engine, says on standard output where it listens and by which certificate it is
//! known, answers calls, and ends when it is told or when the engine is gone.
//!
//! What holds: nothing but the handshake is written to standard output. Whoever starts it by hand is told what it is for.
//! Both ends prove themselves by certificates made for this one run, if the engine gave one.

mod grpc;
mod identity;

use std::env;
use std::io::{self, Write};
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::provider::Provider;

/// What an engine puts into the environment to say that it is one.
const COOKIE: (&str, &str) =
    ("TF_PLUGIN_MAGIC_COOKIE", "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2");
/// The version of the plugin protocol that is spoken here.
const VERSION: &str = "6";
/// How often it is looked whether the engine is still there.
const PARENT_INTERVAL: Duration = Duration::from_secs(5);

const BY_HAND: &str = "\
terraform-provider-adit is started by Terraform, not by hand.

Build it, put it where Terraform looks for providers, and name it in a configuration:

    ~/.terraform.d/plugins/terraform.local/adit/adit/VERSION/linux_amd64/terraform-provider-adit

    terraform {
      required_providers {
        cloudflare = { source = \"terraform.local/adit/adit\" }
      }
    }
    provider \"cloudflare\" {
      base_url  = \"https://adit.example.com/client/v4\"
      ca_file   = \"ca.pem\"
      api_token = file(\"admin-token\")
    }
";

/// Why the plugin cannot run.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The engine speaks no version that we do.
    #[error(
        "Terraform offers the plugin protocols {0}, and this provider speaks 6: Terraform 1.0 or newer is needed"
    )]
    Version(String),
    /// The socket cannot be made.
    #[error("cannot listen in {0:?}")]
    Listen(PathBuf, #[source] io::Error),
    /// The engine cannot be told.
    #[error("cannot write to standard output")]
    Handshake(#[source] io::Error),
    /// The certificates cannot be set up.
    #[error("cannot set up TLS with Terraform")]
    Identity(#[from] identity::IdentityError),
    /// No runtime or no signals.
    #[error("cannot start")]
    Start(#[source] io::Error),
}

/// Runs the plugin until its engine is done.
pub fn main() -> ExitCode {
    let mut stderr = io::stderr();
    if env::args().nth(1).is_some_and(|argument| argument == "--version") {
        let line = writeln!(io::stdout(), "terraform-provider-adit {}", env!("CARGO_PKG_VERSION"));
        return if line.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if env::var(COOKIE.0).ok().as_deref() != Some(COOKIE.1) {
        // Nobody is left to tell if standard error is closed.
        let _ = stderr.write_all(BY_HAND.as_bytes());
        return ExitCode::FAILURE;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(stderr, "terraform-provider-adit: {}", crate::diagnostic::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), PluginError> {
    let offered = env::var("PLUGIN_PROTOCOL_VERSIONS").unwrap_or_else(|_| VERSION.to_owned());
    if !offered.split(',').any(|version| version.trim() == VERSION) {
        return Err(PluginError::Version(offered));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(PluginError::Start)?;
    runtime.block_on(serve())
}

async fn serve() -> Result<(), PluginError> {
    let parent = env::var_os("PLUGIN_UNIX_SOCKET_DIR").map_or_else(env::temp_dir, PathBuf::from);
    let cannot = |error| PluginError::Listen(parent.clone(), error);
    // Only this user may enter it.
    let dir = tempfile::Builder::new().prefix("adit-plugin").tempdir_in(&parent).map_err(cannot)?;
    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket).map_err(cannot)?;
    let client = env::var("PLUGIN_CLIENT_CERT").ok().filter(|pem| !pem.is_empty());
    let identity = client.map(|pem| identity::Identity::new(&pem)).transpose()?;
    let certificate = identity.as_ref().map(|identity| STANDARD_NO_PAD.encode(&identity.certificate));

    // An interrupt goes to the whole process group: the engine hears it and tells us what to do.
    let mut interrupts = signal(SignalKind::interrupt()).map_err(PluginError::Start)?;
    let stop = CancellationToken::new();
    let provider = Arc::new(Provider::new());
    let server = grpc::serve(listener, identity.map(|identity| identity.tls), provider, stop.clone());
    handshake(&socket, certificate.as_deref()).map_err(PluginError::Handshake)?;

    let mut server = std::pin::pin!(server);
    let engine = parent_id();
    let mut look = tokio::time::interval(PARENT_INTERVAL);
    loop {
        tokio::select! {
            () = &mut server => return Ok(()),
            _ = interrupts.recv() => {}
            _ = look.tick() => if parent_id() != engine { stop.cancel() },
        }
    }
}

/// Tells the engine where we listen and by which certificate it knows us.
fn handshake(socket: &Path, certificate: Option<&str>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let socket = socket.display();
    writeln!(stdout, "1|{VERSION}|unix|{socket}|grpc|{}", certificate.unwrap_or_default())?;
    stdout.flush()
}
