//! The control socket of `adit up`: `DIR/control.sock`, for its own user and for root.
//!
//! A request is one line of JSON ([`Request`]), the answer another ([`Answer`]); then the connection ends. What holds: who
//! connects is asked of the kernel and not of the client, and no line, wait or number of clients is without a limit. That
//! it cannot be made is no reason not to start: then `adit account` says that it cannot ask.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_store::Store;
use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Answer, Request};

const FILE: &str = "control.sock";
/// Longest request, in bytes: a name.
const MAX_REQUEST_BYTES: u64 = 4 << 10;
/// Longest answer, in bytes: some ten thousand accounts.
const MAX_ANSWER_BYTES: u64 = 4 << 20;
/// How long either side waits for a line of the other; deleting a large account takes a while.
const LINE_DEADLINE: Duration = Duration::from_secs(5);
const ANSWER_DEADLINE: Duration = Duration::from_mins(1);
/// Clients at once; more wait.
const MAX_CLIENTS: usize = 8;
/// After an error of the listener, such as no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest path of a Unix socket, in bytes: `sockaddr_un` without its terminating zero.
const MAX_PATH_BYTES: usize = 107;

/// The end of `adit up`; the file goes with it.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens in a data directory whose lock the caller holds, in place of a process that is gone.
    pub(crate) fn bind(data: &Path) -> io::Result<Self> {
        let path = data.join(FILE);
        // Nobody can connect before the permissions are right.
        let new = path.with_extension("new");
        if new.as_os_str().len() > MAX_PATH_BYTES {
            return Err(io::Error::other("the path of the data directory is too long for a socket in it"));
        }
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) | Ok(()) => {}
        }
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&new, &path)?;
        Ok(Self { listener, path })
    }

    /// Serves until it is told to stop. `control`: where edge nodes find this control plane.
    pub(crate) async fn serve(self, store: Store, control: String, stop: CancellationToken) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if clients.len() < MAX_CLIENTS => match accepted {
                    Ok((stream, _)) => drop(clients.spawn(client(stream, store.clone(), control.clone()))),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a client of the control socket");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(_) = clients.join_next(), if !clients.is_empty() => {}
                () = stop.cancelled() => break,
            }
        }
        // What was begun is answered; each has its deadline.
        while clients.join_next().await.is_some() {}
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A file that stays behind is replaced by the next one.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn client(stream: UnixStream, store: Store, control: String) {
    let own = nix::unistd::geteuid().as_raw();
    let Some(uid) = stream.peer_cred().ok().map(|peer| peer.uid()).filter(|uid| [own, 0].contains(uid))
    else {
        tracing::warn!("a client of the control socket is not of this user");
        return;
    };
    let mut stream = BufReader::new(stream);
    let Ok(Ok(line)) = timeout(LINE_DEADLINE, read_line(&mut stream, MAX_REQUEST_BYTES)).await else {
        return;
    };
    let answer = match serde_json::from_slice(&line) {
        Ok(request) => super::answer(&store, &control, uid, request).await,
        Err(error) => Answer::Error(format!("not a request: {error}")),
    };
    let mut line = serde_json::to_vec(&answer).expect("answers have string keys only");
    line.push(b'\n');
    // A client that has gone does not wait for it.
    let _ = timeout(LINE_DEADLINE, stream.write_all(&line)).await;
}

async fn read_line(stream: &mut BufReader<UnixStream>, limit: u64) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    stream.take(limit).read_until(b'\n', &mut line).await?;
    if line.pop() == Some(b'\n') { Ok(line) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Someone who asks a running `adit up`.
#[derive(Debug)]
pub(crate) struct Client {
    path: PathBuf,
}

impl Client {
    /// The `adit up` that has this data directory; `None` if none has.
    pub(crate) async fn connect(data: &Path) -> anyhow::Result<Option<Self>> {
        let client = Self { path: data.join(FILE) };
        match UnixStream::connect(&client.path).await {
            Ok(_) => Ok(Some(client)),
            Err(error)
                if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&error.kind()) =>
            {
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                bail!(
                    "not permitted to use {}: use the account that runs adit up, or root",
                    client.path.display()
                )
            }
            Err(error) => Err(error).with_context(|| format!("cannot use {}", client.path.display())),
        }
    }

    pub(crate) async fn ask(&self, request: &Request) -> anyhow::Result<Answer> {
        let exchange = async {
            let mut stream = BufReader::new(UnixStream::connect(&self.path).await?);
            let mut line = serde_json::to_vec(request).expect("requests have string keys only");
            line.push(b'\n');
            stream.write_all(&line).await?;
            read_line(&mut stream, MAX_ANSWER_BYTES).await
        };
        let answer = timeout(ANSWER_DEADLINE, exchange).await.context("adit up does not answer")?;
        let answer = answer.context("adit up has ended, or does not let this user in")?;
        serde_json::from_slice(&answer).map_err(|_| anyhow::anyhow!(super::UNREADABLE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line as a client sends it, and what comes back.
    async fn exchange(data: &Path, sent: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(data.join(FILE)).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_socket_is_its_owners_answers_lines_and_goes_with_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        assert!(Client::connect(dir.path()).await.unwrap().is_none());
        let (socket, stop) = (Socket::bind(dir.path()).unwrap(), CancellationToken::new());
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let serving = tokio::spawn(socket.serve(store, String::new(), stop.clone()));
        let client = Client::connect(dir.path()).await.unwrap().unwrap();
        assert!(
            matches!(client.ask(&Request::List).await.unwrap(), Answer::Accounts(list) if list.is_empty())
        );
        for nonsense in [&b"{\"request\":\"rename\"}\n"[..], b"\xff\n", b"{}\n", b"\n"] {
            let answer = exchange(dir.path(), nonsense).await;
            assert!(
                answer.starts_with(b"{\"error\":\"not a request"),
                "{}",
                String::from_utf8_lossy(&answer)
            );
        }
        let endless = exchange(dir.path(), &vec![b'x'; usize::try_from(MAX_REQUEST_BYTES).unwrap()]).await;
        assert_eq!(endless, b"");
        stop.cancel();
        serving.await.unwrap();
        assert!(!dir.path().join(FILE).exists());
    }
}
