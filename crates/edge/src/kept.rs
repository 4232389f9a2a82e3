//! The last snapshot on disk, for a start without the database (design, section 3).
//!
//! A line that says what follows, then the state as JSON. What holds: the file is there whole or not at all, and only its
//! owner reads it, since it has the hashes of secrets; one that was cut off, changed or is of another version is refused with
//! the reason, and then the node waits for its database as it would without the file. The line also says until when the state
//! was known to be the latest, so that its age counts on over the restart. Nodes and their leases are not kept: they end by
//! themselves.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_model::{Change, ChangeBatch};
use sha2::{Digest as _, Sha256};

use crate::Shared;

/// The file in a node's directory.
pub const KEPT_FILE: &str = "snapshot";

/// The first word of the file, and its version.
const MAGIC: &str = "adit-snapshot-1";
/// The longest first line.
const MAX_HEAD: usize = 160;
/// The largest state: some millions of routes.
const MAX_BYTES: u64 = 1 << 30;
/// Between two writes while changes come.
const WRITE_INTERVAL: Duration = Duration::from_secs(10);
/// Without a change the file is written anew so often, to say that the state still holds.
const CONFIRM_INTERVAL: Duration = Duration::from_mins(10);

/// What was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The state, as a batch that makes it.
    pub state: ChangeBatch,
    /// When it was last known to be the latest.
    pub confirmed: SystemTime,
}

/// There is nothing to start from.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The file cannot be read, or is not there.
    #[error("cannot read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It does not begin as such a file does.
    #[error("it is no snapshot of this version")]
    NotASnapshot,
    /// It is larger than any that is written.
    #[error("it is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// It is not what was written.
    #[error("it is torn: length or checksum are not what its first line says")]
    Torn,
    /// It is what was written, by a program that knows other changes.
    #[error("it cannot be understood")]
    NotUnderstood(#[source] serde_json::Error),
}

impl Kept {
    /// Reads what was kept here.
    ///
    /// # Errors
    /// See [`KeptError`].
    pub fn read(path: &Path) -> Result<Self, KeptError> {
        let failed = |source| KeptError::File { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        Self::parse(&bytes)
    }

    /// Writes it here, in the place of what was there before.
    ///
    /// # Errors
    /// The disk: what was there before still is.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let half = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
        file.write_all(&self.to_bytes()?)?;
        file.sync_all()?;
        fs::rename(&half, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }

    /// How old it is by this clock; a clock that was set back makes nothing younger than new.
    pub fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.confirmed).unwrap_or_default()
    }

    fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let body = serde_json::to_vec(&self.state.changes)?;
        let millis = self.confirmed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let head = format!("{MAGIC} {} {millis} {}", self.state.number, body.len());
        let mut bytes = format!("{head} {}\n", checksum(&head, &body)).into_bytes();
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self, KeptError> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(KeptError::TooLarge);
        }
        let line =
            bytes.iter().take(MAX_HEAD).position(|byte| *byte == b'\n').ok_or(KeptError::NotASnapshot)?;
        let (line, body) = (&bytes[..line], &bytes[line + 1..]);
        let line = std::str::from_utf8(line).map_err(|_| KeptError::NotASnapshot)?;
        let (head, sum) = line.rsplit_once(' ').ok_or(KeptError::NotASnapshot)?;
        let words: Vec<&str> = head.split(' ').collect();
        let [MAGIC, number, millis, length] = words[..] else { return Err(KeptError::NotASnapshot) };
        let read = |word: &str| word.parse::<u64>().map_err(|_| KeptError::Torn);
        let (number, millis, length) = (read(number)?, read(millis)?, read(length)?);
        if length != body.len() as u64 || sum != checksum(head, body) {
            return Err(KeptError::Torn);
        }
        let changes: Vec<Change> = serde_json::from_slice(body).map_err(KeptError::NotUnderstood)?;
        let confirmed = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis));
        Ok(Self { state: ChangeBatch { number, changes }, confirmed: confirmed.ok_or(KeptError::Torn)? })
    }
}

/// Over all but itself.
fn checksum(head: &str, body: &[u8]) -> String {
    use std::fmt::Write as _;
    let sum = Sha256::new().chain_update(head).chain_update([b'\n']).chain_update(body).finalize();
    sum.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// Keeps what the edge decides by on disk, until it stops; the last state is then written once more.
pub(crate) async fn keep(shared: Arc<Shared>, path: PathBuf) {
    let mut changed = shared.snapshots.watch();
    // At once: a node that is started for the first time has something to start from as soon as it can.
    changed.mark_changed();
    loop {
        let due = tokio::time::timeout(CONFIRM_INTERVAL, changed.changed());
        // A timeout is a reason too, and the sender lives in what `shared` holds.
        let stopped = shared.stopping.run_until_cancelled(due).await.is_none();
        changed.mark_unchanged();
        write(&shared, &path).await;
        if stopped {
            return;
        }
        // Cut short when the edge stops: then the loop's turn is the last.
        let _stopping = shared.stopping.run_until_cancelled(tokio::time::sleep(WRITE_INTERVAL)).await;
    }
}

async fn write(shared: &Arc<Shared>, path: &Path) {
    let (shared, path) = (Arc::clone(shared), path.to_owned());
    let written = tokio::task::spawn_blocking(move || {
        let age = shared.freshness.age();
        let now = SystemTime::now();
        let confirmed = now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        Kept { state: shared.snapshots.to_batch(), confirmed }.write(&path)
    });
    match written.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the snapshot could not be kept on disk"),
        Err(error) => tracing::warn!(%error, "the snapshot could not be kept on disk"),
    }
}

/// Feeds any bytes to the reader of kept snapshots: what it takes, it writes and reads again as the same.
#[doc(hidden)]
pub fn fuzz_kept(bytes: &[u8]) {
    let _refused = Kept::parse(bytes);
    // Past the checksum, which no random bytes pass.
    if let Ok(changes) = serde_json::from_slice::<Vec<Change>>(bytes) {
        let kept = Kept { state: ChangeBatch { number: 7, changes }, confirmed: SystemTime::UNIX_EPOCH };
        let written = kept.to_bytes().expect("changes are written as JSON");
        assert_eq!(Kept::parse(&written).ok(), Some(kept));
    }
}

#[cfg(test)]
mod tests {
    use adit_model::{Cidr, Route, RouteId, SecretHash, Tunnel, TunnelId, VirtualNetworkId};
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;
    use uuid::Uuid;

    use super::*;

    fn kept(routes: u8) -> Kept {
        let account = adit_model::AccountId::from_bytes([3; 16]);
        let tunnel = Tunnel {
            id: TunnelId::from_uuid(Uuid::from_u128(1)),
            account,
            name: "t \u{e9}\n".into(),
            secret: SecretHash::from_bytes([9; 32]),
            remotely_managed: false,
        };
        let route = |number: u8| Route {
            id: RouteId::from_uuid(Uuid::from_u128(number.into())),
            account,
            virtual_network: VirtualNetworkId::from_uuid(Uuid::from_u128(2)),
            network: format!("10.0.{number}.0/24").parse::<Cidr>().unwrap(),
            tunnel: tunnel.id,
        };
        let mut changes: Vec<Change> = (0..routes).map(|number| Change::RoutePut(route(number))).collect();
        changes.push(Change::TunnelPut(tunnel));
        let confirmed = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        Kept { state: ChangeBatch { number: 42, changes }, confirmed }
    }

    #[test]
    fn what_was_kept_is_read_again_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEPT_FILE);
        assert!(matches!(Kept::read(&path), Err(KeptError::File { .. })));
        for routes in [3, 1] {
            kept(routes).write(&path).unwrap();
            assert_eq!(Kept::read(&path).unwrap(), kept(routes));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half-made is left");
    }

    #[test]
    fn a_file_of_another_version_or_another_kind_is_told_apart_from_a_torn_one() {
        let bytes = kept(1).to_bytes().unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let newer = text.replacen(MAGIC, "adit-snapshot-2", 1);
        for (bytes, torn) in [
            (&b""[..], false),
            (b"adit", false),
            (newer.as_bytes(), false),
            (&[b'x'; 1000], false),
            (text.replacen(" 42 ", " 43 ", 1).as_bytes(), true),
            (&bytes[..bytes.len() - 1], true),
        ] {
            let error = Kept::parse(bytes).unwrap_err();
            assert_eq!(matches!(error, KeptError::Torn), torn, "{error:?}");
            assert_eq!(matches!(error, KeptError::NotASnapshot), !torn, "{error:?}");
        }
    }

    proptest! {
        #[test]
        fn a_torn_or_changed_file_is_refused(at: prop::sample::Index, flip in 1u8.., cut: bool) {
            let mut bytes = kept(3).to_bytes().unwrap();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
            prop_assert!(Kept::parse(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_a_snapshot_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz_kept(&bytes);
        }

        #[test]
        fn an_age_is_never_negative(ahead in 0u64..1_000_000) {
            let kept = kept(0);
            prop_assert_eq!(kept.age(kept.confirmed - Duration::from_secs(ahead)), Duration::ZERO);
            prop_assert_eq!(kept.age(kept.confirmed + Duration::from_secs(ahead)), Duration::from_secs(ahead));
        }
    }
}
