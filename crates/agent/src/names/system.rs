//! Points the system to the agent's resolver, and back.
//!
//! Where `systemd-resolved` answers for the system, it is told by `resolvectl` that the interface resolves every name, which
//! goes with the interface. Elsewhere `/etc/resolv.conf` is replaced: what was there is first kept in the state directory, and
//! comes back when the interface goes, or at the agent's next start if it was killed. A file that somebody else has written
//! meanwhile is theirs: while the agent runs, it is kept as what was there, and replaced again; when it stops, it stays.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use adit_wire::dns::nameservers;
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use super::addresses;
use crate::state::StateDirectory;

/// Where a C library looks for resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved lists the resolvers that it asks itself.
const RESOLVED_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
/// The first line of what is written.
const MARK: &str =
    "# Written by adit agent: names are resolved through the edge. What was here comes back when it stops.";
/// How often it is seen to that the file is still ours.
const LOOK: Duration = Duration::from_secs(2);
/// Largest file that is taken for a list of resolvers, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// What a file was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Before {
    /// There was none.
    Nothing,
    /// A symbolic link to this.
    Link(PathBuf),
    /// A file of this text and these permissions.
    File { text: String, mode: u32 },
}

/// The system while it asks the agent; put back when this is dropped.
#[derive(Debug)]
pub(crate) struct Pointed {
    how: How,
}

#[derive(Debug)]
enum How {
    /// Through systemd-resolved, for as long as there is the interface.
    Resolved,
    File {
        file: Rc<File>,
        watch: AbortHandle,
    },
}

impl Drop for Pointed {
    fn drop(&mut self) {
        if let How::File { file, watch } = &self.how {
            watch.abort();
            file.put_back();
        }
    }
}

/// Puts back what an agent that was killed has left.
pub(crate) fn recover(state: &Rc<StateDirectory>) {
    File::new(Path::new(RESOLV_CONF), state).put_back();
}

/// Whom the system asks now.
pub(crate) fn former() -> Vec<SocketAddr> {
    let path = if is_resolved() { RESOLVED_UPSTREAM } else { RESOLV_CONF };
    resolvers(&read(Path::new(path)).unwrap_or_default())
}

/// Points the system to the agent's resolver on this interface. `former` is told whom the system has asked so far, now and
/// whenever that changes.
pub(crate) fn point(
    interface: &str,
    state: &Rc<StateDirectory>,
    former: &Rc<RefCell<Vec<SocketAddr>>>,
) -> Option<Pointed> {
    if is_resolved() && resolvectl(interface) {
        *former.borrow_mut() = resolvers(&read(Path::new(RESOLVED_UPSTREAM)).unwrap_or_default());
        return Some(Pointed { how: How::Resolved });
    }
    let file = Rc::new(File::new(Path::new(RESOLV_CONF), state));
    if let Err(error) = file.take(former) {
        tracing::warn!(%error, "the system's programs do not ask the agent for names: {RESOLV_CONF} cannot be replaced");
        return None;
    }
    let (watched, former) = (Rc::clone(&file), Rc::clone(former));
    let watch = tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(LOOK).await;
            if !watched.is_ours()
                && let Err(error) = watched.take(&former)
            {
                tracing::warn!(%error, "{RESOLV_CONF} was replaced by somebody else, and stays so");
                return;
            }
        }
    });
    Some(Pointed { how: How::File { file, watch: watch.abort_handle() } })
}

/// Whether the system asks systemd-resolved, and it runs.
fn is_resolved() -> bool {
    let stub = fs::read_link(RESOLV_CONF).is_ok_and(|target| {
        target.to_string_lossy().contains("systemd/resolve/") && Path::new(RESOLVED_UPSTREAM).exists()
    });
    stub || fs::read_to_string(RESOLV_CONF).is_ok_and(|text| {
        resolvers(&text).first().is_some_and(|first| first.ip() == IpAddr::from([127, 0, 0, 53]))
    })
}

fn resolvectl(interface: &str) -> bool {
    let [v4, v6] = addresses().map(|address| address.to_string());
    let commands: [&[&str]; 3] =
        [&["dns", interface, &v4, &v6], &["domain", interface, "~."], &["default-route", interface, "yes"]];
    commands.iter().all(|arguments| {
        let mut command = Command::new("resolvectl");
        command.args(*arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

/// The file, and where what was before is kept.
#[derive(Debug)]
struct File {
    path: PathBuf,
    state: Rc<StateDirectory>,
}

impl File {
    fn new(path: &Path, state: &Rc<StateDirectory>) -> Self {
        Self { path: path.to_owned(), state: Rc::clone(state) }
    }

    fn is_ours(&self) -> bool {
        read(&self.path).is_ok_and(|text| text.starts_with(MARK))
    }

    /// Keeps what is there, and puts ours in its place.
    fn take(&self, former: &Rc<RefCell<Vec<SocketAddr>>>) -> io::Result<()> {
        let (before, text) = self.before()?;
        let kept = serde_json::to_vec(&before).map_err(io::Error::other)?;
        self.state.set_resolv_conf(Some(&kept)).map_err(io::Error::other)?;
        *former.borrow_mut() = resolvers(&text);
        write(&self.path, &Before::File { text: ours(&text), mode: 0o644 })
    }

    /// What is there, and what it says.
    fn before(&self) -> io::Result<(Before, String)> {
        let link = match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Before::Nothing, String::new()));
            }
            Err(error) => return Err(error),
            Ok(metadata) => metadata.is_symlink(),
        };
        if link {
            // One that leads nowhere says nothing.
            return Ok((Before::Link(fs::read_link(&self.path)?), read(&self.path).unwrap_or_default()));
        }
        let mode = fs::metadata(&self.path)?.permissions().mode() & 0o777;
        let text = read(&self.path)?;
        Ok((Before::File { text: text.clone(), mode }, text))
    }

    /// Puts back what was before, unless somebody else has written the file since.
    fn put_back(&self) {
        let kept = self.state.resolv_conf();
        let Ok(Some(kept)) = kept else { return };
        if self.is_ours() {
            let before: Before = match serde_json::from_slice(&kept) {
                Ok(before) => before,
                Err(error) => return tracing::error!(%error, "what {RESOLV_CONF} was before cannot be read"),
            };
            if let Err(error) = write(&self.path, &before) {
                return tracing::error!(%error, "{RESOLV_CONF} cannot be put back: that is tried again at the next start");
            }
        }
        if let Err(error) = self.state.set_resolv_conf(None) {
            tracing::warn!(%error, "what is kept of {RESOLV_CONF} cannot be removed");
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Ours: the agent's addresses in place of the resolvers, and what else the file says.
fn ours(before: &str) -> String {
    let mut text = format!("{MARK}\n");
    for address in addresses() {
        text.extend(["nameserver ", &address.to_string(), "\n"]);
    }
    let keeps = |line: &&str| ["search", "domain", "options"].iter().any(|word| line.starts_with(word));
    for line in before.lines().filter(keeps) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The resolvers that such a file names, ours not among them.
fn resolvers(text: &str) -> Vec<SocketAddr> {
    nameservers(text).filter(|resolver| !addresses().contains(&resolver.ip())).collect()
}

/// Makes the file so, in one step where that can be. A file that something is mounted on cannot be replaced, but written.
fn write(path: &Path, content: &Before) -> io::Result<()> {
    // Other agents may share the directory, each with a file of its own mounted there.
    let new = path.with_extension(format!("conf.adit-{}", std::process::id()));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) | Ok(()) => {}
    }
    match content {
        Before::Nothing => return fs::remove_file(path),
        Before::Link(target) => std::os::unix::fs::symlink(target, &new)?,
        Before::File { text, mode } => {
            let mut file = fs::File::create(&new)?;
            file.set_permissions(fs::Permissions::from_mode(*mode))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
        }
    }
    let renamed = fs::rename(&new, path);
    match (renamed, content) {
        (Err(error), Before::File { text, .. }) if error.kind() == io::ErrorKind::ResourceBusy => {
            fs::remove_file(&new)?;
            fs::write(path, text)
        }
        (Err(error), _) => {
            // What is left helps nobody.
            let _ = fs::remove_file(&new);
            Err(error)
        }
        (Ok(()), _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        directory: tempfile::TempDir,
        file: File,
        former: Rc<RefCell<Vec<SocketAddr>>>,
    }

    const THEIRS: &str =
        "# a network's\nsearch corp.example\nnameserver 192.0.2.53\nnameserver ::1\noptions edns0\n";

    impl Case {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let state = Rc::new(StateDirectory::open(&directory.path().join("state")).unwrap());
            let file = File::new(&directory.path().join("resolv.conf"), &state);
            Self { directory, file, former: Rc::default() }
        }

        fn text(&self) -> String {
            fs::read_to_string(&self.file.path).unwrap()
        }
    }

    #[test]
    fn a_file_is_replaced_and_comes_back() {
        let case = Case::new();
        fs::write(&case.file.path, THEIRS).unwrap();
        case.file.take(&case.former).unwrap();
        let expected = format!(
            "{MARK}\nnameserver 100.80.0.53\nnameserver fd61:6469:7400::53\nsearch corp.example\noptions edns0\n"
        );
        assert_eq!(case.text(), expected);
        let former: Vec<String> = case.former.borrow().iter().map(ToString::to_string).collect();
        assert_eq!(former, ["192.0.2.53:53", "[::1]:53"]);
        case.file.put_back();
        assert_eq!(case.text(), THEIRS);
        assert_eq!(case.file.state.resolv_conf().unwrap(), None);
        fs::write(&case.file.path, format!("{MARK}\nnameserver 192.0.2.1\n")).unwrap();
        case.file.put_back();
        assert!(case.text().starts_with(MARK), "what nobody kept is not put back");
    }

    #[test]
    fn a_link_comes_back_as_one_and_what_it_leads_to_is_not_touched() {
        let case = Case::new();
        let target = case.directory.path().join("stub.conf");
        fs::write(&target, THEIRS).unwrap();
        std::os::unix::fs::symlink("stub.conf", &case.file.path).unwrap();
        case.file.take(&case.former).unwrap();
        assert!(case.file.is_ours() && fs::read_to_string(&target).unwrap() == THEIRS);
        case.file.put_back();
        assert_eq!(fs::read_link(&case.file.path).unwrap(), Path::new("stub.conf"));
    }

    #[test]
    fn where_there_was_none_there_is_none_again() {
        let case = Case::new();
        case.file.take(&case.former).unwrap();
        assert!(case.file.is_ours());
        case.file.put_back();
        assert!(!case.file.path.exists());
    }

    #[test]
    fn what_somebody_else_has_written_meanwhile_is_theirs() {
        let case = Case::new();
        fs::write(&case.file.path, THEIRS).unwrap();
        case.file.take(&case.former).unwrap();
        fs::write(&case.file.path, "nameserver 203.0.113.53\n").unwrap();
        assert!(!case.file.is_ours());
        case.file.put_back();
        assert_eq!(case.text(), "nameserver 203.0.113.53\n", "and stays when the agent stops");
        case.file.take(&case.former).unwrap();
        fs::write(&case.file.path, "nameserver 203.0.113.54\n").unwrap();
        case.file.take(&case.former).unwrap();
        assert!(case.file.is_ours());
        assert_eq!(case.former.borrow()[0].to_string(), "203.0.113.54:53");
        case.file.put_back();
        assert_eq!(case.text(), "nameserver 203.0.113.54\n", "while it runs it is what comes back");
    }
}
