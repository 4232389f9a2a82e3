//! A PostgreSQL that is reached over the network: with TLS, and what is said where there is none.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use adit_testbed::pki::Pki;
use adit_testbed::process::built;

use crate::postgres_server::Postgres;

/// `adit account ARGS` on this directory and database.
fn account(data: &Path, url: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(built("adit").unwrap());
    command.arg("account").arg("--data").arg(data).args(["--database", url]).args(arguments);
    command.env_remove("ADIT_DATABASE").stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_database_is_reached_with_tls_and_only_one_that_is_trusted() {
    let files = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let (pki, other) =
        (Pki::open(&files.path().join("pki")).unwrap(), Pki::open(&files.path().join("other")).unwrap());
    let read = |path| std::fs::read_to_string(path).unwrap();
    let (certificate, key) = pki.server();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = match Postgres::with_tls(files.path(), port, &read(certificate), &read(key)) {
        Ok(server) => server,
        Err(reason) => {
            eprintln!("SKIPPED: {reason}");
            return;
        }
    };
    let url = server.tls_url().unwrap();
    let data = files.path().join("data");
    let trusting = |ca: &Pki| format!("{url}?sslmode=verify-full&sslrootcert={}", ca.ca().display());
    let none = account(&data, &url, &["list"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("no seal.key"), "{none:?}");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("seal.key"), [7; 32]).unwrap();
    let made = account(&data, &trusting(&pki), &["create", "staging", "-o", "json"]);
    assert!(made.status.success(), "{made:?}");
    let listed = account(&data, &trusting(&pki), &["list"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("staging"), "{listed:?}");
    // Another authority's certificate is not trusted, and nothing is told to whoever shows it.
    let refused = account(&data, &trusting(&other), &["list"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("certificate"), "{told}");
    drop(server);
    // Where the server has no TLS, one that has to have it is not used without.
    let without = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://someone@{}/adit?sslmode=require", without.local_addr().unwrap());
    let refuser = std::thread::spawn(move || {
        let (mut stream, _) = without.accept().unwrap();
        // The request for TLS has eight bytes, and N is no (PostgreSQL, 55.2.10).
        stream.read_exact(&mut [0; 8]).unwrap();
        stream.write_all(b"N").unwrap();
        // It says no more in the clear.
        stream.read(&mut [0]).unwrap()
    });
    let refused = account(&data, &url, &["list"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("does not support TLS"), "{told}");
    assert_eq!(refuser.join().unwrap(), 0);
}
