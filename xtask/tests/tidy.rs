//! The arrows between crates are those of ARCHITECTURE.md, and pure crates stay pure.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Which crates of ours a crate may use. `adit` may use everything, and nothing may use it.
const ARROWS: [(&str, &[&str]); 14] = [
    ("adit-model", &[]),
    ("adit-expr", &[]),
    ("adit-policy", &["adit-model", "adit-expr"]),
    ("adit-wire", &["adit-model"]),
    ("adit-netstack", &["adit-model"]),
    ("adit-inspect", &["adit-model"]),
    ("adit-transport", &[]),
    ("adit-connector", &["adit-model", "adit-wire", "adit-transport"]),
    ("adit-agent", &["adit-model", "adit-wire", "adit-netstack", "adit-transport"]),
    (
        "adit-edge",
        &[
            "adit-model",
            "adit-policy",
            "adit-wire",
            "adit-netstack",
            "adit-transport",
            "adit-inspect",
            "adit-access",
        ],
    ),
    ("adit-store", &["adit-model"]),
    ("adit-terraform", &["adit-model"]),
    ("adit-control", &["adit-model", "adit-expr", "adit-policy", "adit-store", "adit-access", "adit-wire"]),
    // Its benchmark of the control plane fills an installation through them.
    ("adit-testbed", &["adit-model", "adit-control", "adit-store"]),
];

/// Crates without a runtime, sockets, files, clock or randomness.
const PURE: [&str; 5] = ["adit-model", "adit-expr", "adit-policy", "adit-wire", "adit-netstack"];

/// What a pure crate may not use.
const IMPURE: [&str; 9] =
    ["tokio", "tokio-util", "quinn", "h2", "hyper", "rustls", "socket2", "rand", "sqlx"];

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let of = |package: &Value| {
        let normal = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| dependency["kind"].is_null());
        normal.map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect()
    };
    packages.iter().map(|package| (package["name"].as_str().unwrap().to_owned(), of(package))).collect()
}

#[test]
fn crates_depend_on_each_other_only_as_the_table_allows() {
    for (name, uses) in dependencies() {
        let ours: BTreeSet<&str> =
            uses.iter().map(String::as_str).filter(|used| used.starts_with("adit")).collect();
        if name == "adit" {
            continue;
        }
        let allowed = ARROWS.iter().find(|(from, _)| *from == name).map_or(&[][..], |(_, to)| to);
        let wrong: Vec<_> = ours.iter().filter(|used| !allowed.contains(used)).collect();
        assert!(
            wrong.is_empty(),
            "{name} may not depend on {wrong:?}: see ARCHITECTURE.md, Who may depend on whom"
        );
    }
}

#[test]
fn pure_crates_have_no_runtime_and_no_sockets() {
    let dependencies = dependencies();
    for name in PURE.iter().filter(|name| dependencies.contains_key(**name)) {
        let impure: Vec<_> =
            dependencies[*name].iter().filter(|used| IMPURE.contains(&used.as_str())).collect();
        assert!(impure.is_empty(), "{name} is pure and may not use {impure:?}");
    }
}
