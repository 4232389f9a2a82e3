//! A PostgreSQL for tests: Debian's programs, as an unprivileged user, on a Unix socket in a directory of its own.
//!
//! [`Postgres::shared`] gives a new database on a server that all tests of a run share. Whoever comes first starts it; a
//! watcher stops it and removes its files when nobody has used it for a while. Locks of files say who uses it, so that a
//! test that is killed leaves nothing behind. [`Postgres::own`] gives a server of its own, to stop and start, which keeps
//! what it has acknowledged. Only the standard library is used: the tests of other crates include this file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Who the server runs as: PostgreSQL refuses to be root's.
const USER: &str = "postgres";
/// Where the shared server's files are.
const SHARED: &str = "/tmp/adit-test-postgres";
/// What makes a server quick where its files need not outlive a crash of the machine.
const QUICK: &str = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off";
/// Run by `sh` until the shared server is stopped; `$1` its directory, `$2` the directory of the programs.
const WATCH: &str = r#"
exec 8<"$1/start.lock" 9<"$1/users.lock"
while sleep 3; do
    flock -n 8 || continue
    if flock -n 9; then
        setpriv --reuid=postgres --regid=postgres --clear-groups "$2/pg_ctl" -D "$1/data" -m immediate stop
        rm -rf "$1/data"
        exit 0
    fi
    flock -u 8
done
"#;

/// A database, for as long as this lives.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    dir: PathBuf,
    database: String,
    quick: bool,
    /// On which port of 127.0.0.1 it takes connections with TLS, if it does.
    tls: Option<u16>,
    /// Says that the shared server is in use.
    user: Option<File>,
}

impl Postgres {
    /// A new database on the shared server; why not, if this machine has no server to run or we are not root.
    ///
    /// # Errors
    /// A reason to skip the test.
    pub fn shared() -> Result<Self, String> {
        let programs = programs()?;
        let dir = PathBuf::from(SHARED);
        make_dir(&dir)?;
        let start = lock_file(&dir.join("start.lock"))?;
        start.lock().map_err(|error| format!("cannot lock {SHARED}: {error}"))?;
        let user = lock_file(&dir.join("users.lock"))?;
        user.lock_shared().map_err(|error| format!("cannot lock {SHARED}: {error}"))?;
        let server = Self {
            programs,
            dir,
            database: format!("adit_{}_{}", std::process::id(), count()),
            quick: true,
            tls: None,
            user: Some(user),
        };
        if !server.runs() {
            // What is left of a server that was killed.
            let _none = fs::remove_dir_all(server.dir.join("data"));
            server.init()?;
            server.start()?;
            server.watch()?;
        }
        drop(start);
        server.create_database()?;
        Ok(server)
    }

    /// A server of its own in this directory, running.
    ///
    /// # Errors
    /// A reason to skip the test.
    pub fn own(dir: &Path) -> Result<Self, String> {
        let programs = programs()?;
        let dir = dir.join("postgres");
        make_dir(&dir)?;
        let server = Self { programs, dir, database: "adit".into(), quick: false, tls: None, user: None };
        server.init()?;
        server.start()?;
        server.create_database()?;
        Ok(server)
    }

    /// A server of its own in this directory that is also reached on this port of 127.0.0.1, with TLS and this certificate
    /// and key (PEM).
    ///
    /// # Errors
    /// A reason to skip the test.
    pub fn with_tls(dir: &Path, port: u16, certificate: &str, key: &str) -> Result<Self, String> {
        let programs = programs()?;
        let dir = dir.join("postgres");
        make_dir(&dir)?;
        let server =
            Self { programs, dir, database: "adit".into(), quick: true, tls: Some(port), user: None };
        server.init()?;
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = server.dir.join(name);
            let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
            fs::write(&path, text).map_err(failed)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
            make_owned(&path)?;
        }
        server.start()?;
        server.create_database()?;
        Ok(server)
    }

    /// How a program names it where it is reached with TLS.
    pub fn tls_url(&self) -> Option<String> {
        self.tls.map(|port| format!("postgres://{USER}@localhost:{port}/{}", self.database))
    }

    /// How a program names it.
    pub fn url(&self) -> String {
        format!("postgres://{USER}@localhost/{}?host={}", self.database, self.dir.display())
    }

    /// Starts the server again.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&self) -> Result<(), String> {
        let options = format!(
            "-c unix_socket_directories='{}' -c max_connections=200 -c shared_buffers=32MB {} {}",
            self.dir.display(),
            if self.quick { QUICK } else { "" },
            match self.tls {
                None => "-c listen_addresses=''".to_owned(),
                Some(port) => format!(
                    "-c listen_addresses=127.0.0.1 -p {port} -c ssl=on -c ssl_cert_file='{0}/server.crt' \
                     -c ssl_key_file='{0}/server.key'",
                    self.dir.display()
                ),
            }
        );
        let log = self.dir.join("log");
        let log = log.to_string_lossy();
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-l", &log, "-o", &options, "start"])
    }

    /// Stops the server, without asking those who are connected.
    ///
    /// # Errors
    /// It does not stop.
    pub fn stop(&self) -> Result<(), String> {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-m", "immediate", "stop"])
    }

    fn data(&self) -> String {
        self.dir.join("data").display().to_string()
    }

    fn runs(&self) -> bool {
        self.run("pg_ctl", &["-D", &self.data(), "status"]).is_ok()
    }

    fn init(&self) -> Result<(), String> {
        self.run(
            "initdb",
            &["-D", &self.data(), "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"],
        )
    }

    fn create_database(&self) -> Result<(), String> {
        let port = self.tls.unwrap_or(5432).to_string();
        self.run("createdb", &["-h", &self.dir.display().to_string(), "-p", &port, &self.database])
    }

    /// Stops the shared server when nobody uses it.
    fn watch(&self) -> Result<(), String> {
        let mut watcher = Command::new("setsid");
        watcher.args(["sh", "-c", WATCH, "sh"]).arg(&self.dir).arg(&self.programs).current_dir("/");
        watcher.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        watcher.spawn().map(drop).map_err(|error| format!("cannot start setsid: {error}"))
    }

    /// Runs one of the programs as the server's user.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), String> {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]);
        command.arg(self.programs.join(program)).args(arguments).current_dir("/");
        command.env("LC_ALL", "C").stdin(Stdio::null());
        // The server keeps what it inherits, and nobody reads a pipe for as long as it runs.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        match command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                Err(format!("{program} of PostgreSQL failed ({status}): see {}/log", self.dir.display()))
            }
            Err(error) => Err(format!("cannot run {program} of PostgreSQL: {error}")),
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let over = match self.user {
            Some(_) => {
                self.run("dropdb", &["-h", &self.dir.display().to_string(), "--force", &self.database])
            }
            None => self.stop(),
        };
        // The server may be stopped already, and the watcher removes what is left of the shared one.
        drop(over);
    }
}

/// Where the newest server's programs are.
fn programs() -> Result<PathBuf, String> {
    let versions =
        fs::read_dir("/usr/lib/postgresql").map_err(|_| "no PostgreSQL is installed".to_owned())?;
    let mut found: Vec<PathBuf> = versions.flatten().map(|version| version.path().join("bin")).collect();
    found.retain(|dir| dir.join("initdb").exists());
    found.sort();
    let programs = found.pop().ok_or("no PostgreSQL server is installed")?;
    if fs::metadata("/proc/self").map_err(|error| error.to_string())?.uid() != 0 {
        return Err(format!("only root can run PostgreSQL as the user {USER}"));
    }
    Ok(programs)
}

/// A directory that the server's user owns.
fn make_dir(dir: &Path) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    make_owned(dir)
}

fn make_owned(path: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot change the owner of {}: {error}", path.display());
    let chown = Command::new("chown").arg(USER).arg(path).status().map_err(failed)?;
    if !chown.success() {
        return Err(format!("the user {USER} does not exist"));
    }
    Ok(())
}

fn lock_file(path: &Path) -> Result<File, String> {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    open.map_err(|error| format!("cannot make {}: {error}", path.display()))
}

/// Counts the databases of this process.
fn count() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}
