//! The contract's section 14.

use adit_expr::{Expression, Fact, Facts, NoLists, vector};

use crate::scheme::scheme;

#[test]
fn the_contracts_vectors_hold() {
    let scheme = scheme();
    let vectors = vector::read(include_str!("vectors.jsonl")).unwrap();
    assert!(vectors.len() >= 80, "the file holds only {} vectors", vectors.len());
    let misses: Vec<String> = vectors
        .iter()
        .filter_map(|vector| vector.run(&scheme).unwrap())
        .map(|miss| miss.to_string())
        .collect();
    assert!(misses.is_empty(), "{}", misses.join("\n"));
}

#[test]
fn what_was_accepted_is_accepted_again_in_its_canonical_text_and_says_the_same() {
    let scheme = scheme();
    for vector in vector::read(include_str!("vectors.jsonl")).unwrap() {
        let Ok(Some(expression)) = Expression::new(&vector.expression, &scheme, &AllLists) else { continue };
        let canonical = expression.canonical();
        let again = Expression::new(canonical, &scheme, &AllLists).unwrap().unwrap();
        assert!(again.same_as(&expression), "{} became {canonical}", vector.expression);
        assert_eq!(again.canonical(), canonical);
    }
}

/// Every list exists, of the kind that its first digit says.
struct AllLists;

impl adit_expr::ListKinds for AllLists {
    fn list_kind(&self, id: adit_expr::ListId) -> Option<adit_expr::ListKind> {
        Some(if id.to_string().starts_with('f') {
            adit_expr::ListKind::Ip
        } else {
            adit_expr::ListKind::Domain
        })
    }
}

/// One step of a walk over rules as the contract's section 8 has it: the first that matches, or "hold" at the first
/// that what is known does not decide.
fn walk(rules: &[(&'static str, &str)], phase: u8, facts: &Facts<'_>) -> &'static str {
    let scheme = scheme();
    for (action, text) in rules {
        let matched = match Expression::new(text, &scheme, &NoLists).unwrap() {
            Some(expression) => expression.compile().matches_by(phase, facts, &NoLists),
            None => Some(true),
        };
        match matched {
            Some(true) => return action,
            Some(false) => {}
            None => return "hold",
        }
    }
    "no rule matches"
}

#[test]
fn a_rule_is_decided_as_soon_as_what_it_needs_is_known() {
    let scheme = scheme();
    let port = |number| {
        let mut facts = Facts::default();
        facts.set(scheme.field("net.dst.port").unwrap().slot, Fact::Int(number));
        facts
    };
    let rules = [("block", "net.dst.port == 22"), ("block", "net.sni.host == \"x\"")];
    assert_eq!(walk(&rules, 0, &port(22)), "block");
    assert_eq!(walk(&rules, 0, &port(443)), "hold");
    // The ClientHello came, and named no server.
    assert_eq!(walk(&rules, 1, &port(443)), "no rule matches");
    let rules = [("block", "net.sni.host == \"x\""), ("allow", "net.dst.port == 443")];
    assert_eq!(walk(&rules, 0, &port(443)), "hold");
    let rules = [("block", "net.dst.port == 22 and net.sni.host == \"x\""), ("allow", "")];
    assert_eq!(walk(&rules, 0, &port(443)), "allow");
    assert_eq!(walk(&rules, 0, &port(22)), "hold");
    // The other connective that may decide early, and the two that may not.
    assert_eq!(walk(&[("allow", "net.sni.host == \"x\" or net.dst.port == 22")], 0, &port(22)), "allow");
    assert_eq!(walk(&[("allow", "net.sni.host == \"x\" xor net.dst.port == 22")], 0, &port(22)), "hold");
    assert_eq!(walk(&[("allow", "not(any(net.sni.domains[*] == \"x\"))")], 0, &port(22)), "hold");
}
