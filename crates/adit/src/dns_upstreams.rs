//! The resolvers that an edge asks: those of `--dns-upstream`, or those of this machine.

use std::net::SocketAddr;
use std::path::Path;

use adit_wire::dns::{nameservers, resolver};
use anyhow::bail;

/// The resolvers that were given, or else those of this machine.
pub(crate) fn of(given: &[String]) -> anyhow::Result<Vec<SocketAddr>> {
    if given.is_empty() {
        return Ok(of_machine(Path::new("/etc/resolv.conf")));
    }
    given.iter().map(|text| parse(text)).collect()
}

fn parse(text: &str) -> anyhow::Result<SocketAddr> {
    let Some(resolver) = resolver(text) else {
        bail!(
            "dns-upstream: expected ADDRESS or ADDRESS:PORT, such as 9.9.9.9 or [2620:fe::fe]:53, not {text:?}"
        );
    };
    Ok(resolver)
}

/// None where there is no such file: names are then resolved by the resolvers of rules only.
fn of_machine(path: &Path) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    nameservers(&text).take(MAX_OF_MACHINE).collect()
}

/// What a C library takes of such a file.
const MAX_OF_MACHINE: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_is_an_address_with_or_without_a_port() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            assert_eq!(parse(text).unwrap().to_string(), expected);
        }
        check("9.9.9.9", "9.9.9.9:53");
        check("9.9.9.9:5353", "9.9.9.9:5353");
        check("2620:fe::fe", "[2620:fe::fe]:53");
        check("[2620:fe::fe]", "[2620:fe::fe]:53");
        check("[2620:fe::fe]:5353", "[2620:fe::fe]:5353");
        let error = parse("dns.example").unwrap_err().to_string();
        assert!(error.starts_with("dns-upstream: expected ADDRESS"), "{error}");
    }

    #[test]
    fn without_one_this_machines_resolvers_are_asked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        std::fs::write(
            &path,
            "# a comment\nsearch example\nnameserver 192.0.2.53\nnameserver ::1\nnameserver x\n",
        )
        .unwrap();
        let found: Vec<String> = of_machine(&path).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.53:53", "[::1]:53"]);
        assert!(of_machine(Path::new("/nowhere")).is_empty());
    }
}
