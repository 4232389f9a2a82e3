//! How people and programs on the device talk to the agent: a Unix socket in its state directory, for its owner only.
//!
//! A request is one line of JSON, the answer is another:
//!
//! ```json
//! {"command":"enroll","edge":"https://HOST","ca_pem":"…","service_token":{"id":"…","secret":"…"},"force":false}
//! {"command":"explain","destination":"198.51.100.101:443","protocol":"tcp","dial":true}
//! {"command":"connect"}   {"command":"disconnect"}   {"command":"status"}
//! ```
//!
//! The answer is `{"status":{…}}`, to `explain` `{"explained":{…}}`, or `{"error":"…"}`. `connect` and `enroll` answer when the attempt has succeeded or
//! failed, or after [`CONNECT_WAIT`] with the state at that time.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_model::{ExplainQuestion, Explained};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::edge_address::EdgeAddress;
use crate::state;
use crate::status::{ConnectionState, Status};

/// Longest request, in bytes: an enrolment carries the certificates of an edge.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;
/// Longest answer, in bytes: a status lists every route.
pub const MAX_ANSWER_BYTES: usize = 16 << 20;
/// How long `connect` and `enroll` wait for the connection.
pub const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// How long a client may take to send its request, and to take the answer.
const CLIENT_DEADLINE: Duration = Duration::from_secs(5);
/// How long the agent may take to answer: an enrolment, and then the connection.
const ANSWER_DEADLINE: Duration = Duration::from_mins(1);
/// Clients at once; more wait.
const MAX_CLIENTS: usize = 16;
/// Longest path of a Unix socket, in bytes: `sockaddr_un` without its terminating zero.
const MAX_PATH_BYTES: usize = 107;

/// A service token, whose secret is not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceToken {
    /// The token's client id.
    pub id: String,
    secret: String,
}

impl ServiceToken {
    /// The token with this id and secret.
    pub fn new(id: String, secret: String) -> Self {
        Self { id, secret }
    }

    /// The secret, for the edge only.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for ServiceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Binds the device to whom a service token stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollCommand {
    /// The edge to enrol at.
    pub edge: EdgeAddress,
    /// Certificates that the edge's must be signed by; the system's roots if absent.
    #[serde(default)]
    pub ca_pem: Option<String>,
    /// What entitles the device.
    pub service_token: ServiceToken,
    /// Replaces a registration that there is already.
    #[serde(default)]
    pub force: bool,
}

/// What the agent is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// Enrol, and connect.
    Enroll(EnrollCommand),
    /// Connect, and stay connected, also after a restart.
    Connect,
    /// Disconnect, and stay disconnected, also after a restart.
    Disconnect,
    /// Say how things are.
    Status,
    /// Say what would become of a flow.
    Explain(ExplainQuestion),
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done; this is how things are now.
    Status(Status),
    /// What would become of the flow.
    Explained(Box<Explained>),
    /// It is not done, and why.
    Error(String),
}

/// The agent could not be asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent is running with the state directory {}: start one with `adit agent run --state {}`",
        state.display(), state.display())]
    NotRunning {
        /// The directory.
        state: PathBuf,
    },
    /// The socket belongs to somebody else.
    #[error("not permitted to talk to the agent of {}: use the account that runs it", state.display())]
    NotPermitted {
        /// The directory.
        state: PathBuf,
    },
    /// The socket broke.
    #[error("cannot talk to the agent")]
    Io(#[source] io::Error),
    /// The agent is busy or hangs.
    #[error("the agent does not answer")]
    Silent,
    /// The answer is none: probably of another version.
    #[error("the agent's answer cannot be read: is it of the same version?")]
    Answer,
    /// The agent says why it did not do it.
    #[error("{0}")]
    Refused(String),
}

/// Asks the agent with this state directory to enrol.
///
/// # Errors
/// See [`ClientError`].
pub async fn enroll(state: &Path, command: EnrollCommand) -> Result<Status, ClientError> {
    ask(state, &Request::Enroll(command)).await
}

/// Asks the agent with this state directory to connect.
///
/// # Errors
/// See [`ClientError`].
pub async fn connect(state: &Path) -> Result<Status, ClientError> {
    ask(state, &Request::Connect).await
}

/// Asks the agent with this state directory to disconnect.
///
/// # Errors
/// See [`ClientError`].
pub async fn disconnect(state: &Path) -> Result<Status, ClientError> {
    ask(state, &Request::Disconnect).await
}

/// Asks the agent with this state directory how it is.
///
/// # Errors
/// See [`ClientError`].
pub async fn status(state: &Path) -> Result<Status, ClientError> {
    ask(state, &Request::Status).await
}

/// Asks the agent with this state directory what would become of a flow.
///
/// # Errors
/// See [`ClientError`].
pub async fn explain(state: &Path, question: ExplainQuestion) -> Result<Explained, ClientError> {
    match exchange(state, &Request::Explain(question)).await? {
        Answer::Explained(explained) => Ok(*explained),
        Answer::Error(error) => Err(ClientError::Refused(error)),
        Answer::Status(_) => Err(ClientError::Answer),
    }
}

async fn ask(state: &Path, request: &Request) -> Result<Status, ClientError> {
    match exchange(state, request).await? {
        Answer::Status(status) => Ok(status),
        Answer::Error(error) => Err(ClientError::Refused(error)),
        Answer::Explained(_) => Err(ClientError::Answer),
    }
}

async fn exchange(state: &Path, request: &Request) -> Result<Answer, ClientError> {
    let not_running = || ClientError::NotRunning { state: state.to_owned() };
    let stream =
        UnixStream::connect(state::socket(state)).await.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ECONNREFUSED) => not_running(),
            Some(libc::EACCES | libc::EPERM) => ClientError::NotPermitted { state: state.to_owned() },
            _ => ClientError::Io(error),
        })?;
    let exchange = async {
        let mut stream = BufReader::new(stream);
        let mut line = serde_json::to_vec(request).expect("requests have string keys only");
        line.push(b'\n');
        stream.write_all(&line).await.map_err(ClientError::Io)?;
        let answer = read_line(&mut stream, MAX_ANSWER_BYTES).await.map_err(ClientError::Io)?;
        serde_json::from_slice(&answer).map_err(|_| ClientError::Answer)
    };
    timeout(ANSWER_DEADLINE, exchange).await.unwrap_or(Err(ClientError::Silent))
}

/// A request for the service, and where it reports that it is done.
pub(crate) type Order = (Request, oneshot::Sender<Result<Done, String>>);

/// What came of an order.
#[derive(Debug)]
pub(crate) enum Done {
    /// It is carried out.
    CarriedOut,
    /// What would become of a flow.
    Explained(Box<Explained>),
}

/// The control socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel does not take such a long path.
    #[error("the path {} is too long for a socket: choose a state directory with a shorter path", path.display())]
    PathTooLong {
        /// The socket's path.
        path: PathBuf,
    },
    /// Something else.
    #[error("cannot listen on {}", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The agent's end of the control socket; the file goes with it.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Listens at `path`, in place of an agent that is gone: the caller holds the directory's lock.
    pub(crate) fn bind(path: PathBuf) -> Result<Self, SocketError> {
        if path.as_os_str().len() > MAX_PATH_BYTES - ".new".len() {
            return Err(SocketError::PathTooLong { path });
        }
        let listen = || {
            // Nobody can connect before the permissions are right.
            let new = path.with_extension("new");
            match std::fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) | Ok(()) => {}
            }
            let listener = UnixListener::bind(&new)?;
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
            std::fs::rename(&new, &path)?;
            Ok(listener)
        };
        match listen() {
            Ok(listener) => Ok(Self { listener, path }),
            Err(source) => Err(SocketError::Io { path, source }),
        }
    }

    /// Serves clients for ever.
    ///
    /// May be cancelled: clients see the connection close.
    pub(crate) async fn serve(&self, status: watch::Receiver<Status>, orders: mpsc::Sender<Order>) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if clients.len() < MAX_CLIENTS => match accepted {
                    Ok((stream, _)) => {
                        clients.spawn_local(client(stream, status.clone(), orders.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a control client");
                        // Out of descriptors: others must end first.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = clients.join_next(), if !clients.is_empty() => {}
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // A file that stays behind is replaced by the next agent.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn client(stream: UnixStream, status: watch::Receiver<Status>, orders: mpsc::Sender<Order>) {
    let mut stream = BufReader::new(stream);
    let Ok(Ok(line)) = timeout(CLIENT_DEADLINE, read_line(&mut stream, MAX_REQUEST_BYTES)).await else {
        return;
    };
    let answer = match serde_json::from_slice(&line) {
        Ok(request) => answer(request, status, &orders).await,
        Err(error) => Answer::Error(format!("not a request: {error}")),
    };
    let mut line = serde_json::to_vec(&answer).expect("answers have string keys only");
    line.push(b'\n');
    // A client that has gone does not wait for it.
    let _ = timeout(CLIENT_DEADLINE, stream.write_all(&line)).await;
}

async fn answer(
    request: Request,
    mut status: watch::Receiver<Status>,
    orders: &mpsc::Sender<Order>,
) -> Answer {
    let connects = match &request {
        Request::Status => return Answer::Status(status.borrow().clone()),
        Request::Enroll(_) | Request::Connect => true,
        Request::Disconnect | Request::Explain(_) => false,
    };
    let (report, done) = oneshot::channel();
    let stopping = || Answer::Error("the agent is stopping".to_owned());
    if orders.send((request, report)).await.is_err() {
        return stopping();
    }
    match done.await {
        Ok(Ok(Done::CarriedOut)) => {}
        Ok(Ok(Done::Explained(explained))) => return Answer::Explained(explained),
        Ok(Err(error)) => return Answer::Error(error),
        Err(_) => return stopping(),
    }
    if connects {
        let settled = status.wait_for(|status| status.state != ConnectionState::Connecting);
        // Without an outcome in time, the status says that it is being tried, and what went wrong last.
        let _ = timeout(CONNECT_WAIT, settled).await;
    }
    Answer::Status(status.borrow().clone())
}

async fn read_line(stream: &mut BufReader<UnixStream>, limit: usize) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    stream.take(limit as u64).read_until(b'\n', &mut line).await?;
    if line.pop() == Some(b'\n') { Ok(line) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Feeds any bytes to the parser of requests.
#[doc(hidden)]
pub fn fuzz_request(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let text = serde_json::to_vec(&request).expect("requests have string keys only");
        assert_eq!(serde_json::from_slice::<Request>(&text).ok(), Some(request));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_are_lines_of_json() {
        #[track_caller]
        fn check(text: &str, expected: &Request) {
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), *expected);
            fuzz_request(text.as_bytes());
        }
        check(r#"{"command":"status"}"#, &Request::Status);
        check(r#"{"command":"connect"}"#, &Request::Connect);
        check(r#"{"command":"disconnect"}"#, &Request::Disconnect);
        let service_token = ServiceToken::new("id".to_owned(), "secret".to_owned());
        check(
            r#"{"command":"enroll","edge":"https://192.0.2.1","service_token":{"id":"id","secret":"secret"}}"#,
            &Request::Enroll(EnrollCommand {
                edge: "192.0.2.1".parse().unwrap(),
                ca_pem: None,
                service_token,
                force: false,
            }),
        );
    }

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?}", ServiceToken::new("id".to_owned(), "hunter2".to_owned()));
        assert!(shown.contains("id") && !shown.contains("hunter2"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_an_error(data: Vec<u8>) {
            fuzz_request(&data);
        }

        #[test]
        fn any_command_is_a_request_or_an_error(command in "[a-z]{0,10}", edge in ".{0,20}") {
            fuzz_request(serde_json::json!({
                "command": command, "edge": edge, "service_token": { "id": "a", "secret": "b" },
            }).to_string().as_bytes());
        }
    }
}
