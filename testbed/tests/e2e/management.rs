//! The management commands: adit's print what cloudflared's print, and an unmodified cloudflared's work with the `cert.pem`
//! that `adit tunnel login` writes (tunnel protocol, 6.4 and 6.5).
//!
//! `management.txt` is what a cloudflared printed, with its name replaced by adit's: standard output as it is, standard
//! error after `! `, and the exit code after `? ` if it is not 0. Ids are numbered in the order in which they appear.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use adit_testbed::chain::{Chain, Tunnel};
use adit_testbed::process::Process;
use serde_json::Value;

const TRANSCRIPT: &str = include_str!("management.txt");
/// How many connections a connector keeps.
const CONNECTIONS: usize = 4;

/// An edge, and someone on its host who has logged in.
struct Desk {
    chain: Chain,
    home: PathBuf,
}

impl Desk {
    async fn new() -> Self {
        let mut chain = Chain::new().unwrap();
        chain.start_edge().await.unwrap();
        let home = chain.dir().join("home");
        fs::create_dir(&home).unwrap();
        let desk = Self { chain, home };
        let mut login = desk.adit(&["tunnel", "login", "https://localhost", "--data"]);
        let login = run(login.arg(desk.chain.data()));
        assert!(login.status.success(), "{login:?}");
        desk
    }

    /// A program with the environment of who has logged in: an adit needs no more than `HOME`.
    fn prepared(&self, mut command: Command) -> Command {
        command.current_dir(self.chain.dir()).env("HOME", &self.home);
        command
    }

    fn adit(&self, arguments: &[&str]) -> Command {
        let mut command = self.prepared(self.chain.adit(&self.chain.world.edge));
        command.args(arguments);
        command
    }

    fn cloudflared(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = self.prepared(self.chain.world.edge.command(program));
        for (variable, _) in std::env::vars_os() {
            if variable.to_str().is_some_and(|name| name.starts_with("TUNNEL_")) {
                command.env_remove(variable);
            }
        }
        command.env("SSL_CERT_FILE", self.chain.data().join("ca.pem"));
        command.env("TUNNEL_API_URL", "https://localhost/client/v4").args(arguments);
        command
    }

    /// The commands of the transcript, and what they print now.
    fn transcript(&self, command: impl Fn(&[&str]) -> Command) -> String {
        let mut plain = Plain { dir: self.chain.dir().display().to_string(), ids: HashMap::new() };
        let mut text = String::new();
        for line in TRANSCRIPT.lines().filter_map(|line| line.strip_prefix("$ ")) {
            let output = run(&mut command(&words(line)));
            writeln!(text, "$ {line}").unwrap();
            text.push_str(&plain.of(&output.stdout));
            for line in without_note(&plain.of(&output.stderr)).lines() {
                writeln!(text, "! {line}").unwrap();
            }
            match output.status.code() {
                Some(0) => {}
                code => writeln!(text, "? {}", code.unwrap()).unwrap(),
            }
        }
        text
    }
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

/// A line as a shell takes it apart, as far as the transcript needs it.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, more) = match first {
            '"' | '\'' => rest[1..].split_once(first).unwrap(),
            _ => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word);
        rest = more.trim_start();
    }
    words
}

/// What adit says to a person after `create`, and cloudflared does not.
fn without_note(text: &str) -> String {
    let note =
        |line: &&str| line.starts_with("To run its connector") || line.starts_with("  adit tunnel --edge");
    text.split_inclusive('\n').filter(|line| !note(line)).collect()
}

/// Replaces what differs from run to run: the directory, ids, times and tokens; and the name of the program.
struct Plain {
    dir: String,
    ids: HashMap<String, String>,
}

impl Plain {
    fn of(&mut self, output: &[u8]) -> String {
        let text = String::from_utf8(output.to_vec()).unwrap();
        let text =
            text.replace(&self.dir, "DIR").replace("cloudflared", "adit").replace(".adit", ".cloudflared");
        let mut plain = String::new();
        let mut rest = text.as_str();
        while let Some(first) = rest.chars().next() {
            let taken = if let Some(id) = rest.get(..36).filter(|id| uuid::Uuid::try_parse(id).is_ok()) {
                let number = self.ids.len() + 1;
                let known = self.ids.entry(id.to_owned());
                plain.push_str(known.or_insert_with(|| format!("00000000-0000-0000-0000-{number:012}")));
                36
            } else if let Some(length) = time_length(rest) {
                plain.push_str("TIME");
                length
            } else if rest.starts_with("eyJ") {
                plain.push_str("TOKEN");
                let base64 = |char: char| char.is_ascii_alphanumeric() || "+/=".contains(char);
                rest.find(|char| !base64(char)).unwrap_or(rest.len())
            } else {
                plain.push(first);
                first.len_utf8()
            };
            rest = &rest[taken..];
        }
        plain
    }
}

/// The length of a time such as `2026-01-02T03:04:05.123`, if one stands here.
fn time_length(text: &str) -> Option<usize> {
    const SHAPE: &str = "20dd-dd-dd?dd:dd:dd";
    let matches = |(shape, byte): (u8, u8)| match shape {
        b'd' => byte.is_ascii_digit(),
        b'?' => byte == b'T' || byte == b' ',
        other => byte == other,
    };
    let head = text.as_bytes().get(..SHAPE.len())?;
    if !SHAPE.bytes().zip(head.iter().copied()).all(matches) {
        return None;
    }
    let rest = &text[SHAPE.len()..];
    let fraction = rest
        .strip_prefix('.')
        .map_or(0, |digits| 1 + digits.find(|char: char| !char.is_ascii_digit()).unwrap_or(digits.len()));
    Some(SHAPE.len() + fraction)
}

/// Fails at the first line that differs.
#[track_caller]
fn compare(found: &str, expected: &str) {
    let mut command = "";
    for (found, expected) in found.lines().zip(expected.lines()) {
        if expected.starts_with("$ ") {
            command = expected;
        }
        assert_eq!(found, expected, "after {command}");
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "one is longer than the other");
}

fn named_cloudflared() -> Option<PathBuf> {
    let program = std::env::var_os("CLOUDFLARED").map(PathBuf::from);
    if program.is_none() {
        eprintln!("SKIPPED: CLOUDFLARED names no cloudflared");
    }
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn management_commands_print_what_cloudflareds_print() {
    let desk = Desk::new().await;
    compare(&desk.transcript(|arguments| desk.adit(arguments)), TRANSCRIPT);
}

#[tokio::test(flavor = "multi_thread")]
async fn cloudflareds_management_commands_work_with_the_certificate_of_login() {
    let Some(program) = named_cloudflared() else { return };
    let desk = Desk::new().await;
    compare(&desk.transcript(|arguments| desk.cloudflared(&program, arguments)), TRANSCRIPT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_that_was_created_runs_by_its_name_and_shows_its_connections() {
    let desk = Desk::new().await;
    let created = run(&mut desk.adit(&["tunnel", "create", "by-name"]));
    let note = String::from_utf8(created.stderr).unwrap();
    for program in ["  adit tunnel --edge", "  cloudflared tunnel --edge"] {
        let line = note.lines().find(|line| line.starts_with(program)).unwrap();
        assert!(line.matches("--edge ").count() >= 2, "{line}");
    }
    let listed = run(&mut desk.adit(&["tunnel", "list", "-o", "json"]));
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    let ca = desk.chain.data().join("ca.pem");
    let edge = ["tunnel", "--edge", "127.0.0.1:7844", "--edge", "127.0.0.1:7844", "--metrics", "127.0.0.1:0"];
    let mut command = desk.adit(&edge);
    command.arg("--cacert").arg(&ca).args(["run", "by-name"]);
    let mut connector = Process::spawn("by-name", desk.chain.dir(), command).unwrap();
    let tunnel = Tunnel { id: id.clone(), name: "by-name".to_owned(), credentials: Value::Null };
    if let Err(error) = desk.chain.wait_for_connections(&tunnel, CONNECTIONS).await {
        panic!("{error:#}\n{}", connector.output().join("\n"));
    }
    let reads: [&[&str]; 6] = [
        &["tunnel", "info", "by-name"],
        &["tunnel", "info", "-o", "json", "by-name"],
        &["tunnel", "info", "-o", "yaml", "by-name"],
        &["tunnel", "list"],
        &["tunnel", "list", "-o", "yaml"],
        &["tunnel", "delete", "by-name"],
    ];
    let program = named_cloudflared();
    for arguments in reads {
        let ours = run(&mut desk.adit(arguments));
        if let Some(program) = &program {
            let theirs = run(&mut desk.cloudflared(program, arguments));
            let text = |output: &Output| {
                let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
                String::from_utf8(both).unwrap().replace("cloudflared", "adit")
            };
            assert_eq!((text(&ours), ours.status), (text(&theirs), theirs.status), "{arguments:?}");
        }
        let text = String::from_utf8(ours.stdout).unwrap();
        match arguments {
            ["tunnel", "info", "by-name"] => assert!(text.contains(" 4xedge01 "), "{text}"),
            ["tunnel", "delete", _] => assert_eq!(ours.status.code(), Some(1), "it has connections"),
            _ => assert!(text.contains(&id), "{text}"),
        }
    }
    let deleted = run(&mut desk.adit(&["tunnel", "delete", "-f", "by-name"]));
    assert!(deleted.status.success(), "{deleted:?}");
    assert!(
        !desk.home.join(format!(".cloudflared/{id}.json")).exists(),
        "the credentials go with the tunnel"
    );
    connector.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn login_writes_a_private_certificate_once_that_may_change_tunnels_only() {
    let desk = Desk::new().await;
    let path = desk.home.join(".cloudflared/cert.pem");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let written = fs::read_to_string(&path).unwrap();
    let mut again = desk.adit(&["tunnel", "login", "https://localhost", "--data"]);
    let again = run(again.arg(desk.chain.data()));
    assert_eq!(again.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("You have an existing certificate at"),
        "{again:?}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), written, "it is never overwritten");

    // The certificate's token makes no tokens: a login with it keeps the token itself.
    let mut second =
        desk.adit(&["tunnel", "login", "https://localhost", "--origincert", "second.pem", "--ca"]);
    second.arg(desk.chain.data().join("ca.pem")).env("ADIT_API_TOKEN", api_token(&written));
    let second = run(&mut second);
    assert!(second.status.success(), "{second:?}");
    assert!(String::from_utf8_lossy(&second.stderr).contains("may not make tokens"), "{second:?}");
    let second = fs::read_to_string(desk.chain.dir().join("second.pem")).unwrap();
    assert_eq!(api_token(&second), api_token(&written));
}

/// The API token in a `cert.pem`.
fn api_token(pem: &str) -> String {
    let body: String = pem.lines().skip(1).take_while(|line| !line.starts_with("-----END")).collect();
    let json = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    json["apiToken"].as_str().unwrap().to_owned()
}
