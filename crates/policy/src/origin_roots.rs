//! Which authorities an account trusts its own origins by, beside the system's (Gateway semantics, 3.2).
//!
//! What holds: they count only where they are said to. One that is limited to names counts for no client that names none.

use adit_model::{FlowFacts, OriginRoot};

use crate::snapshot::Snapshot;

impl Snapshot {
    /// The certificates, as PEM, that count for an origin of this flow whose client asks for this name.
    pub fn origin_roots<'s>(
        &'s self,
        flow: &'s FlowFacts,
        name: Option<&'s str>,
    ) -> impl Iterator<Item = &'s str> {
        let of_account =
            self.origin_roots.get(&flow.account).map(|roots| roots.as_slice()).unwrap_or_default();
        of_account.iter().filter(move |root| counts(root, flow, name)).map(|root| root.certificate.as_str())
    }
}

fn counts(root: &OriginRoot, flow: &FlowFacts, name: Option<&str>) -> bool {
    let networks = &root.virtual_networks;
    let in_network = networks.is_empty() || networks.contains(&flow.virtual_network);
    let suffixes = &root.host_suffixes;
    let named = || name.is_some_and(|name| suffixes.iter().any(|suffix| is_below(name, suffix)));
    in_network && (suffixes.is_empty() || named())
}

/// Whether a name is this one, or stands below it.
fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::is_below;

    #[test]
    fn a_suffix_is_of_whole_labels() {
        assert!(is_below("corp.internal", "corp.internal") && is_below("a.b.corp.internal", "corp.internal"));
        for other in ["notcorp.internal", "corp.internal.example", "internal", ""] {
            assert!(!is_below(other, "corp.internal"), "{other}");
        }
    }
}
