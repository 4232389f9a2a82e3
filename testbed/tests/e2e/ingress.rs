//! `tunnel ingress validate` and `rule`: the same file through adit and, when `CLOUDFLARED` names one, through an
//! unmodified cloudflared, with the same output and exit code.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use adit_testbed::process::built;

/// Files, what is asked of them, and the answer: exit code, standard output, and what is complained of.
const CASES: &[(&str, &[&str], i32, &str, &str)] = &[
    (
        "ingress:\n  - hostname: '*.b.test'\n    path: ^/x\n    service: tcp://localhost\n  - service: http_status:404\n",
        &["validate"],
        0,
        "Validating rules from FILE\nOK\n",
        "",
    ),
    (
        "ingress:\n  - hostname: '*.b.test'\n    path: ^/x\n    service: tcp://localhost\n  - service: http_status:404\n",
        &["rule", "https://q.b.test/x/y"],
        0,
        "Using rules from FILE\nMatched rule #0\n\thostname: *.b.test\n\tpath: ^/x\n\tservice: tcp://localhost:7864\n",
        "",
    ),
    (
        "ingress:\n  - hostname: '*.b.test'\n    path: ^/x\n    service: tcp://localhost\n  - service: http_status:404\n",
        &["rule", "https://q.b.test:8443/y"],
        0,
        "Using rules from FILE\nMatched rule #1\n\tservice: http_status:404\n",
        "",
    ),
    (
        "ingress:\n  - hostname: bücher.test\n    service: hello-world\n  - service: HTTPS://Up:8443\n",
        &["rule", "https://xn--bcher-kva.test/"],
        0,
        "Using rules from FILE\nMatched rule #0\n\thostname: bücher.test\n\tservice: hello_world\n",
        "",
    ),
    (
        "tunnel: x\n",
        &["validate"],
        1,
        "Validating rules from FILE\n",
        "Validation failed: The config file doesn't contain any ingress rules",
    ),
    (
        "ingress:\n  - hostname: a.test\n    service: http://localhost\n",
        &["validate"],
        1,
        "Validating rules from FILE\n",
        "Validation failed: The last ingress rule must match all URLs (i.e. it should not have a hostname or path filter)",
    ),
    (
        "ingress:\n  - hostname: '*'\n    service: http://localhost\n  - service: http_status:404\n",
        &["validate"],
        1,
        "Validating rules from FILE\n",
        "Validation failed: Rule #1 is matching the hostname '*', but this will match every hostname, meaning the rules which follow it will never be triggered.",
    ),
    (
        "ingress:\n  - hostname: 'a.*.test'\n    service: http://localhost\n  - service: http_status:404\n",
        &["validate"],
        1,
        "Validating rules from FILE\n",
        "Validation failed: Hostname patterns can have at most one wildcard character (\"*\") and it can only be used for subdomains, e.g. \"*.example.com\"",
    ),
    (
        "ingress:\n  - hostname: 'a.test:80'\n    service: http://localhost\n  - service: http_status:404\n",
        &["validate"],
        1,
        "Validating rules from FILE\n",
        "Validation failed: Hostname cannot contain a port",
    ),
    (
        "ingress:\n  - service: socks-proxy\n    originRequest:\n      ipRules:\n        - prefix: 10.0.0.0\n",
        &["validate"],
        1,
        "Validating rules from FILE\n",
        "Validation failed: unable to create ip rule for socks-proxy: unable to parse cidr: 10.0.0.0",
    ),
    (
        "ingress:\n  - service: http_status:404\n",
        &["rule", "nowhere"],
        1,
        "",
        "nowhere doesn't have a hostname, consider adding a scheme",
    ),
];

/// Services, and what is said of each in a rule of its own: the service, or what is wrong with it.
const SERVICES: &[(&str, Result<&str, &str>)] = &[
    ("http://a b", Err("parse \"http://a b\": invalid character \" \" in host name")),
    ("127.0.0.1:80", Err("parse \"127.0.0.1:80\": first path segment in URL cannot contain colon")),
    (
        "localhost:80",
        Err("localhost:80 is an invalid address, please make sure it has a scheme and a hostname"),
    ),
    ("://x", Err("parse \"://x\": missing protocol scheme")),
    ("http://", Err("http:// is an invalid address, please make sure it has a scheme and a hostname")),
    ("http://a:b", Err("parse \"http://a:b\": invalid port \":b\" after host")),
    ("http://[::1", Err("parse \"http://[::1\": missing ']' in host")),
    (
        "http://a/x",
        Err(
            "http://a/x is an invalid address, ingress rules don't support proxying to a different path on the origin service. The path will be the same as the eyeball request's path",
        ),
    ),
    ("http_status:abc", Err("invalid HTTP status code: strconv.Atoi: parsing \"abc\": invalid syntax")),
    ("http_status:99", Err("invalid HTTP status code: 99")),
    (
        "http_status:99999999999999999999",
        Err("invalid HTTP status code: strconv.Atoi: parsing \"99999999999999999999\": value out of range"),
    ),
    ("unix:/run/x.sock", Ok("unix:/run/x.sock")),
    ("unix+tls:/run/x.sock", Ok("unix+tls:/run/x.sock")),
    ("hello-world", Ok("hello_world")),
    ("bastion", Ok("bastion")),
    ("socks-proxy", Ok("socks-proxy")),
    ("ssh://h", Ok("ssh://h:22")),
    ("rdp://h", Ok("rdp://h:3389")),
    ("smb://h", Ok("smb://h:445")),
    ("tcp://[::1]", Ok("tcp://[::1]:7864")),
    ("foo://h", Ok("foo://h")),
    ("HTTP://Up", Ok("http://Up")),
    ("http://a?x=1", Ok("http://a?x=1")),
    ("wss://a:1", Ok("wss://a:1")),
];

#[test]
fn rules_are_validated_and_matched_as_cloudflared_does() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yml");
    let mut programs = vec![built("adit").unwrap().into_os_string()];
    match std::env::var_os("CLOUDFLARED") {
        Some(cloudflared) => programs.push(cloudflared),
        None => eprintln!("SKIPPED: comparison with cloudflared: CLOUDFLARED names none"),
    }
    for (yaml, asked, code, output, complaint) in CASES {
        std::fs::write(&file, yaml).unwrap();
        for program in &programs {
            check(program, &file, asked, (*code, output, complaint));
        }
    }
    for (service, expected) in SERVICES {
        std::fs::write(&file, format!("ingress:\n  - service: '{}'\n", service.replace('\'', "''"))).unwrap();
        let (code, matched, complaint) = match expected {
            Ok(service) => (0, format!("Matched rule #0\n\tservice: {service}\n"), String::new()),
            Err(problem) => (1, String::new(), format!("Validation failed: {problem}")),
        };
        for program in &programs {
            let output = format!("Using rules from FILE\n{matched}");
            check(program, &file, &["rule", "http://a.test/"], (code, &output, &complaint));
        }
    }
}

fn check(program: &OsString, file: &Path, asked: &[&str], expected: (i32, &str, &str)) {
    let mut command = Command::new(program);
    command.args(["tunnel", "--config"]).arg(file).arg("ingress").args(asked).env_remove("TUNNEL_URL");
    let answer = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&file.display().to_string(), "FILE");
    let complaint = text(&answer.stderr).trim_end_matches('\n').to_owned();
    let actual = (answer.status.code().unwrap_or(-1), text(&answer.stdout), complaint);
    let yaml = std::fs::read_to_string(file).unwrap();
    assert_eq!(
        actual,
        (expected.0, expected.1.to_owned(), expected.2.to_owned()),
        "{} {asked:?}\n{yaml}",
        program.display()
    );
}
