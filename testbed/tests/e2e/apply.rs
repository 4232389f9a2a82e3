//! `adit apply`, `diff` and `export`, and the commands for people, against a running `adit up`.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use adit_testbed::chain::Chain;
use adit_testbed::pki::Pki;
use http::Method;
use serde_json::{Value, json};

/// Somebody on the edge's host, with files.
struct Desk {
    chain: Chain,
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

const REFERENCE: &str = "\
kind: tunnel
name: k8s
config_src: cloudflare
---
kind: tunnel_configuration
tunnel: k8s
config:
  ingress:
    - hostname: app.example.com
      service: http://localhost:8080
    - service: http_status:404
---
kind: virtual_network
name: staging
comment: same addresses as production
---
kind: route
network: 198.51.100.101/32
tunnel: k8s
comment: k8s
---
kind: route
network: 198.51.100.101/32
virtual_network: staging
tunnel: k8s
---
kind: hostname
name: app.example.com
tunnel: k8s
---
kind: service_token
name: ci
duration: 8760h
";

impl Desk {
    async fn new() -> Self {
        let mut chain = Chain::new().unwrap();
        chain.start_edge().await.unwrap();
        fs::create_dir(chain.dir().join("network")).unwrap();
        Self { chain }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.chain.dir().join("network").join(name), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.chain.adit(&self.chain.world.edge);
        command.current_dir(self.chain.dir()).args(arguments).env("ADIT_DATA", self.chain.data());
        command.env("HOME", self.chain.dir()).stdin(Stdio::null());
        command
    }

    fn adit(&self, arguments: &[&str]) -> Ended {
        ended(self.command(arguments).output().unwrap())
    }

    fn good(&self, arguments: &[&str]) -> String {
        let ended = self.adit(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
        ended.stdout
    }
}

fn ended(output: std::process::Output) -> Ended {
    Ended {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[tokio::test]
async fn files_are_applied_changed_and_pruned() {
    let desk = Desk::new().await;
    desk.write("all.yaml", REFERENCE);
    let before = desk.adit(&["diff", "-f", "network"]);
    assert_eq!(before.code, 1, "{before:?}");
    assert!(before.stdout.contains("+ tunnel k8s"), "{}", before.stdout);
    desk.good(&["apply", "-f", "network", "--secrets", "secrets.yaml"]);
    let secrets = desk.chain.dir().join("secrets.yaml");
    assert_eq!(fs::metadata(&secrets).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&secrets).unwrap().contains("client_secret"));
    assert_eq!(desk.good(&["diff", "-f", "network"]), "no changes\n");
    assert_eq!(desk.good(&["apply", "-f", "network"]), "no changes\n");

    // What is there, as files, is what is there.
    let exported = desk.good(&["export"]);
    fs::write(desk.chain.dir().join("exported.yaml"), &exported).unwrap();
    assert_eq!(desk.good(&["diff", "-f", "exported.yaml", "--prune"]), "no changes\n", "{exported}");

    let changed = REFERENCE.replace("comment: k8s", "comment: cluster").replace(":8080", ":9090");
    let without_second = changed.replacen(
        "kind: route\nnetwork: 198.51.100.101/32\nvirtual_network: staging\ntunnel: k8s\n---\n",
        "",
        1,
    );
    assert_ne!(changed, without_second);
    desk.write("all.yaml", &without_second);
    let refused = desk.adit(&["apply", "-f", "network", "--prune"]);
    assert_eq!(refused.code, 2, "off a terminal nothing is deleted without --yes: {refused:?}");
    let diff = desk.adit(&["diff", "-f", "network", "--prune"]);
    assert!(diff.stdout.contains("0 to create, 2 to change, 1 to delete"), "{}", diff.stdout);
    desk.good(&["apply", "-f", "network", "--prune", "--yes"]);
    assert_eq!(desk.good(&["diff", "-f", "network", "--prune"]), "no changes\n");
    let routes: Value = serde_json::from_str(&desk.good(&["get", "routes", "-o", "json"])).unwrap();
    assert_eq!(routes.as_array().unwrap().len(), 1);
    assert_eq!(routes[0]["comment"], "cluster");
}

#[tokio::test]
async fn authorities_of_origins_are_applied_shown_and_exported() {
    let desk = Desk::new().await;
    let pki = Pki::open(&desk.chain.dir().join("certificates")).unwrap();
    let pem = fs::read_to_string(pki.ca()).unwrap();
    let indented = pem.trim_end().replace('\n', "\n  ");
    let document = |domain: &str| {
        format!("kind: origin_root\nname: lab\nhost_suffixes: [{domain}]\ncertificate: |\n  {indented}\n")
    };
    desk.write("roots.yaml", &document("lab.example"));
    desk.good(&["apply", "-f", "network"]);
    assert_eq!(desk.good(&["diff", "-f", "network", "--prune"]), "no changes\n");
    assert!(desk.good(&["get", "origin-roots"]).contains("lab.example"));
    let exported = desk.good(&["export"]);
    fs::write(desk.chain.dir().join("exported.yaml"), &exported).unwrap();
    assert_eq!(desk.good(&["diff", "-f", "exported.yaml", "--prune"]), "no changes\n", "{exported}");
    desk.write("roots.yaml", &document("test.example"));
    desk.good(&["apply", "-f", "network"]);
    let roots = desk.chain.call(Method::GET, "x/gateway/origin_roots", None).await.unwrap();
    assert_eq!(roots[0]["host_suffixes"], json!(["test.example"]));
    desk.good(&["delete", "origin-root", "lab"]);
    assert_eq!(desk.good(&["get", "origin-roots", "-o", "json"]), "[]\n");
}

#[tokio::test]
async fn what_is_half_wrong_changes_nothing() {
    let desk = Desk::new().await;
    desk.write("a.yaml", "kind: tunnel\nname: k8s\n");
    desk.write("b.yaml", "kind: route\nnetwork: 10.0.0.0/8\ntunel: k8s\n");
    let refused = desk.adit(&["apply", "-f", "network"]);
    assert_eq!(refused.code, 2);
    assert!(
        refused.stderr.contains("b.yaml:3:1: tunel: a route has no such key; did you mean tunnel?"),
        "{refused:?}"
    );

    // What only the installation can know: the last of three is refused, and none is done.
    desk.write(
        "b.yaml",
        "kind: route\nnetwork: 10.0.0.0/8\ntunnel: k8s\n---\nkind: route\nnetwork: 10.0.0.1/8\ntunnel: k8s\n",
    );
    let refused = desk.adit(&["apply", "-f", "network"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("b.yaml:5:1: route 10.0.0.1/8:"), "{refused:?}");
    assert!(refused.stderr.contains("nothing was done"), "{refused:?}");
    assert_eq!(desk.good(&["get", "tunnels", "-o", "json"]), "[]\n");
}

#[tokio::test]
async fn of_two_at_once_one_wins_and_the_other_is_told() {
    let desk = Desk::new().await;
    desk.write("a.yaml", "kind: tunnel\nname: k8s\n");
    let spawn = || {
        let mut command = desk.command(&["apply", "-f", "network"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let (one, other) = (spawn(), spawn());
    let ends = [ended(one.wait_with_output().unwrap()), ended(other.wait_with_output().unwrap())];
    let won = ends.iter().filter(|ended| ended.stdout.contains("applied: 1 created")).count();
    assert_eq!(won, 1, "{ends:?}");
    // The other one came too late to make it: it saw that, or was told when it tried.
    for ended in ends.iter().filter(|ended| !ended.stdout.contains("applied")) {
        let told = ended.code == 5 && ended.stderr.contains("adit diff");
        assert!(told || (ended.code == 0 && ended.stdout == "no changes\n"), "{ended:?}");
    }

    let batch = format!("/accounts/{}/x/batch", desk.chain.api().unwrap().account());
    let path = format!("/accounts/{}/teamnet/virtual_networks", desk.chain.api().unwrap().account());
    let generation = desk.chain.call(Method::GET, &batch, None).await.unwrap()["generation"].clone();
    let body = |name: &str| json!({ "generation": generation, "operations": [{ "method": "POST", "path": path, "body": { "name": name } }] });
    desk.chain.call(Method::POST, &batch, Some(&body("first"))).await.unwrap();
    let late = desk.chain.call(Method::POST, &batch, Some(&body("second"))).await.unwrap_err();
    assert!(format!("{late:#}").contains("Something was written"), "{late:#}");
    assert_eq!(desk.adit(&["get", "virtual-network", "second"]).code, 3);
}

#[tokio::test]
async fn a_thousand_objects_are_applied_at_once() {
    let desk = Desk::new().await;
    let mut text = "kind: tunnel\nname: k8s\n".to_owned();
    for index in 0..999 {
        let (high, low) = (index / 256, index % 256);
        write!(text, "---\nkind: route\nnetwork: 10.{high}.{low}.0/24\ntunnel: k8s\n").unwrap();
    }
    desk.write("all.yaml", &text);
    let applied = desk.good(&["apply", "-f", "network"]);
    assert!(applied.contains("applied: 1000 created, 0 changed, 0 deleted"), "{applied}");
    assert_eq!(desk.good(&["diff", "-f", "network"]), "no changes\n");
}

#[tokio::test]
async fn rules_change_places_in_one_apply() {
    let desk = Desk::new().await;
    let rules = |one: u64, other: u64| {
        let rule = |name: &str, place: u64| {
            format!("kind: rule\nname: {name}\naction: block\nfilters: [l4]\nprecedence: {place}\n")
        };
        format!("{}---\n{}", rule("one", one), rule("other", other))
    };
    desk.write("rules.yaml", &rules(10, 20));
    desk.good(&["apply", "-f", "network"]);
    desk.write("rules.yaml", &rules(20, 10));
    let applied = desk.good(&["apply", "-f", "network"]);
    assert!(
        applied.contains("- precedence: 10\n    + precedence: 20\n") && applied.contains("2 changed"),
        "{applied}"
    );
    assert_eq!(desk.good(&["diff", "-f", "network"]), "no changes\n");
    desk.write("rules.yaml", &rules(20, 20));
    let refused = desk.adit(&["apply", "-f", "network"]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(refused.stderr.contains("a rule with this precedence already exists"), "{refused:?}");
}

#[tokio::test]
async fn a_token_that_is_made_may_what_it_was_made_for() {
    let desk = Desk::new().await;
    let made = desk.good(&[
        "create",
        "token",
        "reader",
        "--permission",
        "cloudflare tunnel read",
        "--expires-on",
        "2100-01-01T00:00:00Z",
        "-o",
        "json",
    ]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let token = made["value"].as_str().unwrap();
    desk.good(&["get", "tunnels", "--token", token]);
    assert_eq!(desk.adit(&["create", "tunnel", "k8s", "--token", token]).code, 4);
    let wrong = desk.adit(&["create", "token", "x", "--permission", "Cloudflare Tunnel Rite"]);
    assert!(
        wrong.code == 2 && wrong.stderr.contains("did you mean \"Cloudflare Tunnel Write\"?"),
        "{wrong:?}"
    );
    assert!(
        desk.good(&["create", "token", "y", "--permission", "Zero Trust Write"]).contains("shown this once")
    );
    desk.good(&["delete", "token", "reader"]);
    assert_eq!(desk.adit(&["get", "tunnels", "--token", token]).code, 4);
}

#[tokio::test]
async fn objects_are_managed_by_name_and_exit_codes_say_what_failed() {
    let desk = Desk::new().await;
    desk.good(&["create", "tunnel", "k8s"]);
    desk.good(&["create", "route", "10.0.0.0/8", "--tunnel", "k8s", "--comment", "a"]);
    desk.good(&["create", "hostname", "app.example.com", "--tunnel", "k8s"]);
    desk.good(&["edit", "route", "10.0.0.0/8", "--comment", "b"]);
    let route = desk.good(&["get", "route", "10.0.0.0/8", "-o", "yaml"]);
    assert!(route.contains("comment: b\n") && route.contains("tunnel_name: k8s\n"), "{route}");
    let table = desk.good(&["get", "routes"]);
    assert!(table.starts_with("ID ") && table.contains("10.0.0.0/8") && !table.contains('\x1b'), "{table}");

    let check = |arguments: &[&str], code: i32, says: &str| {
        let ended = desk.adit(arguments);
        assert_eq!(ended.code, code, "{ended:?}");
        assert!(ended.stderr.contains(says) && ended.stderr.lines().count() == 1, "{ended:?}");
        assert!(!ended.stderr.contains("For more information"), "{ended:?}");
    };
    check(&["get", "pods"], 2, "expected one of tunnel");
    check(&["create", "route", "10.0.0.0/8"], 2, "--tunnel");
    check(&["get", "tunnel", "k8"], 3, "did you mean k8s?");
    check(&["get", "tunnels", "--token", "nonsense"], 4, "check the token");
    check(&["create", "route", "10.0.0.0/8", "--tunnel", "k8s"], 5, "already have a route");
    check(&["get", "tunnels", "--url", "https://localhost:1"], 6, "is it running");

    desk.good(&["login", "--url", "https://localhost"]);
    let mut command = desk.command(&["get", "tunnels", "-o", "json"]);
    let with_profile = ended(command.env_remove("ADIT_DATA").output().unwrap());
    assert!(with_profile.code == 0 && with_profile.stdout.contains("k8s"), "{with_profile:?}");
    for arguments in [
        ["delete", "hostname", "app.example.com"],
        ["delete", "route", "10.0.0.0/8"],
        ["delete", "tunnel", "k8s"],
    ] {
        desk.good(&arguments);
    }
    assert_eq!(desk.good(&["get", "tunnels", "-o", "json"]), "[]\n");
}
