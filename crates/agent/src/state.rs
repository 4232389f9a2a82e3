//! The agent's directory: the device's key, its registration, and whether it was turned off.
//!
//! | file | what it is |
//! | --- | --- |
//! | `registration.json` (0600) | the edge, what it is trusted by, who the device is, the key's file name |
//! | `device-ID.key` (0600) | the key in PKCS #8, PEM |
//! | `networks.json` (0600) | which carrier was the better one in the networks seen last |
//! | `edges.json` (0600) | the other edges that this one has told of |
//! | `resolv-conf.json` (0600) | what `/etc/resolv.conf` was before the agent replaced it |
//! | `disconnected` | exists if the device was turned off |
//! | `agent.lock` | locked by the running agent |
//! | `agent.sock` (0600) | [`crate::control_socket`] |
//!
//! A file is written whole under another name, synced and renamed. The registration names its key, so the two change in
//! one step: a failed enrolment leaves what was there.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use adit_model::{DeviceId, RegistrationId};
use nix::fcntl::{Flock, FlockArg};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::edge_address::EdgeAddress;

/// Largest file that is read, in bytes: a registration holds a few certificates.
const MAX_FILE_BYTES: u64 = 1 << 20;
const REGISTRATION: &str = "registration.json";
const NETWORKS: &str = "networks.json";
const EDGES: &str = "edges.json";
const RESOLV_CONF: &str = "resolv-conf.json";
const DISCONNECTED: &str = "disconnected";
const LOCK: &str = "agent.lock";
const SOCKET: &str = "agent.sock";

/// The agent's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another agent uses it.
    #[error("another agent is running with the state directory {}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what the agent wrote.
    #[error("{} is damaged ({expected} expected): remove it and enrol again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
}

/// What enrolment has brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the field's name in the device protocol")]
pub(crate) struct Registration {
    pub(crate) edge: EdgeAddress,
    /// What the edge's certificate must be signed by; the system's roots if absent.
    pub(crate) ca_pem: Option<String>,
    pub(crate) registration_id: RegistrationId,
    pub(crate) device_id: DeviceId,
    /// Whom the device stands for.
    pub(crate) user: String,
    key_file: String,
}

impl Registration {
    pub(crate) fn new(
        edge: EdgeAddress,
        ca_pem: Option<String>,
        (registration_id, device_id, user): (RegistrationId, DeviceId, String),
    ) -> Self {
        let key_file = format!("device-{registration_id}.key");
        Self { edge, ca_pem, registration_id, device_id, user, key_file }
    }
}

/// The directory, locked for one agent.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    path: PathBuf,
    /// Held for as long as the agent runs.
    _lock: Flock<File>,
}

impl StateDirectory {
    /// Makes the directory if need be, and takes its lock.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(at(&lock_path))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
            if error == nix::errno::Errno::EWOULDBLOCK {
                StateError::InUse { path: path.to_owned() }
            } else {
                StateError::Io { path: lock_path, source: error.into() }
            }
        })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where the control socket is.
    pub(crate) fn socket(&self) -> PathBuf {
        socket(&self.path)
    }

    /// The registration and its key, if the device is enrolled.
    pub(crate) fn registration(
        &self,
    ) -> Result<Option<(Registration, PrivatePkcs8KeyDer<'static>)>, StateError> {
        let path = self.path.join(REGISTRATION);
        let Some(text) = read(&path)? else { return Ok(None) };
        let damaged = |path, expected| StateError::Damaged { path, expected };
        let registration: Registration =
            serde_json::from_slice(&text).map_err(|_| damaged(path.clone(), "a registration"))?;
        if Path::new(&registration.key_file).file_name() != Some(registration.key_file.as_ref()) {
            return Err(damaged(path, "a registration"));
        }
        let key_path = self.path.join(&registration.key_file);
        let pem = read(&key_path)?.ok_or_else(|| damaged(path, "a registration with its key"))?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| damaged(key_path, "a private key"))?;
        Ok(Some((registration, key)))
    }

    /// Keeps a new registration and removes the old one's key. `key_pem` is PKCS #8.
    pub(crate) fn enroll(&self, registration: &Registration, key_pem: &str) -> Result<(), StateError> {
        let text = serde_json::to_vec_pretty(registration).expect("a registration has string keys only");
        let key_path = self.path.join(&registration.key_file);
        write(&key_path, key_pem.as_bytes())?;
        if let Err(error) = write(&self.path.join(REGISTRATION), &text) {
            // Worth nothing without its registration.
            let _ = std::fs::remove_file(&key_path);
            return Err(error);
        }
        self.remove_keys_but(&registration.key_file);
        self.set_disconnected(false)
    }

    /// Whether the device was turned off.
    pub(crate) fn is_disconnected(&self) -> bool {
        self.path.join(DISCONNECTED).exists()
    }

    /// Remembers that the device was turned off, or on again.
    pub(crate) fn set_disconnected(&self, disconnected: bool) -> Result<(), StateError> {
        let path = self.path.join(DISCONNECTED);
        if disconnected {
            return write(&path, b"");
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path)(error)),
            Err(_) | Ok(()) => Ok(()),
        }
    }

    /// What is remembered of networks, if anything.
    pub(crate) fn networks(&self) -> Result<Option<Vec<u8>>, StateError> {
        read(&self.path.join(NETWORKS))
    }

    /// Remembers this of networks.
    pub(crate) fn set_networks(&self, text: &[u8]) -> Result<(), StateError> {
        write(&self.path.join(NETWORKS), text)
    }

    /// What is remembered of other edges, if anything.
    pub(crate) fn edges(&self) -> Result<Option<Vec<u8>>, StateError> {
        read(&self.path.join(EDGES))
    }

    /// Remembers this of other edges.
    pub(crate) fn set_edges(&self, text: &[u8]) -> Result<(), StateError> {
        write(&self.path.join(EDGES), text)
    }

    /// What is remembered of the system's list of resolvers, if anything.
    pub(crate) fn resolv_conf(&self) -> Result<Option<Vec<u8>>, StateError> {
        read(&self.path.join(RESOLV_CONF))
    }

    /// Remembers this of the system's list of resolvers, or nothing.
    pub(crate) fn set_resolv_conf(&self, text: Option<&[u8]>) -> Result<(), StateError> {
        let path = self.path.join(RESOLV_CONF);
        match text {
            Some(text) => write(&path, text),
            None => std::fs::remove_file(&path).map_err(at(&path)),
        }
    }

    fn remove_keys_but(&self, current: &str) {
        let Ok(entries) = std::fs::read_dir(&self.path) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is_key = name.to_str().is_some_and(|name| name.starts_with("device-"));
            if is_key && name != current {
                // A key that stays behind opens nothing by itself.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// Where the control socket of the agent with this state directory is.
pub(crate) fn socket(state: &Path) -> PathBuf {
    state.join(SOCKET)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    use std::io::Read as _;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(at(path))?;
    Ok(Some(bytes))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let new = path.with_extension("new");
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| {
            // An older file may have had other permissions.
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&new, path));
    written.map_err(|error| {
        // What is left of it, if anything, helps nobody.
        let _ = std::fs::remove_file(&new);
        at(path)(error)
    })
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAQID\n-----END PRIVATE KEY-----\n";

    fn registration(id: u128) -> Registration {
        let id = uuid::Uuid::from_u128(id);
        Registration::new(
            "https://edge.example.com:8443".parse().unwrap(),
            Some("a certificate".to_owned()),
            (RegistrationId::from_uuid(id), DeviceId::from_uuid(id), "robot".to_owned()),
        )
    }

    fn mode(path: PathBuf) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_registration_is_kept_with_its_key_for_the_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let state = StateDirectory::open(&path).unwrap();
        assert_eq!(state.registration().unwrap(), None);
        state.enroll(&registration(1), KEY).unwrap();
        let (kept, key) = state.registration().unwrap().unwrap();
        assert_eq!((kept, key.secret_pkcs8_der()), (registration(1), &[1, 2, 3][..]));
        assert_eq!(mode(path.clone()), 0o700);
        for file in names(&path) {
            assert_eq!(mode(path.join(&file)), 0o600, "{file}");
        }
    }

    #[test]
    fn a_new_registration_replaces_the_old_and_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        state.enroll(&registration(1), KEY).unwrap();
        state.set_disconnected(true).unwrap();
        state.enroll(&registration(2), KEY).unwrap();
        assert_eq!(state.registration().unwrap().unwrap().0, registration(2));
        assert_eq!(names(directory.path()), ["agent.lock", &registration(2).key_file, "registration.json"]);
    }

    #[test]
    fn a_directory_serves_one_agent_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDirectory::open(directory.path()).unwrap();
        assert!(matches!(StateDirectory::open(directory.path()), Err(StateError::InUse { .. })));
        drop(first);
        StateDirectory::open(directory.path()).unwrap();
    }

    #[test]
    fn being_turned_off_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        assert!(!state.is_disconnected());
        state.set_disconnected(false).unwrap();
        state.set_disconnected(true).unwrap();
        assert!(state.is_disconnected());
        state.set_disconnected(false).unwrap();
        assert!(!state.is_disconnected());
    }

    #[test]
    fn a_damaged_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        state.enroll(&registration(1), "not a key").unwrap();
        let error = state.registration().unwrap_err().to_string();
        assert!(error.contains("device-") && error.contains("private key"), "{error}");
        std::fs::write(directory.path().join(REGISTRATION), "{").unwrap();
        assert!(matches!(state.registration(), Err(StateError::Damaged { .. })));
        let mut elsewhere = registration(1);
        elsewhere.key_file = "../key".to_owned();
        std::fs::write(directory.path().join(REGISTRATION), serde_json::to_vec(&elsewhere).unwrap()).unwrap();
        assert!(matches!(state.registration(), Err(StateError::Damaged { .. })));
    }
}
