//! The body of the fuzz target: one text through everything.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::facts::{Attribute, Fact, Facts, Texts};
use crate::list::{List, ListId, ListKind};
use crate::naive::Naive;
use crate::scheme::{Field, Meaning, Scheme, Type};
use crate::{Expression, parse};

/// One field of each type and meaning.
fn fields() -> Vec<Field> {
    let fields = [
        ("flag", Type::Bool, Meaning::Plain),
        ("port", Type::Int, Meaning::Plain),
        ("ip", Type::Ip, Meaning::Plain),
        ("host", Type::Bytes, Meaning::Host),
        ("mail", Type::Bytes, Meaning::Email),
        ("path", Type::Bytes, Meaning::Plain),
        ("flags", Type::Array(&Type::Bool), Meaning::Plain),
        ("ids", Type::Array(&Type::Int), Meaning::Listed(ListKind::Category)),
        ("ips", Type::Array(&Type::Ip), Meaning::Plain),
        ("hosts", Type::Array(&Type::Bytes), Meaning::Host),
        ("groups.name", Type::Array(&Type::Bytes), Meaning::Plain),
        ("map", Type::Map(&Type::Array(&Type::Bytes)), Meaning::Plain),
        ("pairs", Type::Map(&Type::Array(&Type::Bytes)), Meaning::Pairs),
        ("area", Type::Bytes, Meaning::Coded(&[("north", "N"), ("south", "S")])),
        ("place", Type::Bytes, Meaning::Listed(ListKind::Location)),
    ];
    let field = |(slot, (name, kind, meaning))| {
        let phase = u8::try_from(slot % 3).unwrap_or_default();
        Field { name, slot, kind, phase, meaning, caution: None }
    };
    (0..).zip(fields).map(field).collect()
}

/// Lists by the ids of one repeated byte.
fn lists() -> (HashMap<ListId, ListKind>, HashMap<ListId, List>) {
    let lists = [
        (0x11, ListKind::Ip, vec!["10.0.0.0/8", "2001:db8::1"]),
        (0x22, ListKind::Domain, vec!["example.com", "a"]),
        (0x33, ListKind::Category, vec!["7", "80"]),
        (0x44, ListKind::Email, vec!["a@b.c"]),
    ];
    let mut kinds = HashMap::new();
    let mut contents = HashMap::new();
    for (byte, kind, items) in lists {
        let id = ListId::from_bytes([byte; 16]);
        kinds.insert(id, kind);
        if let Ok(list) = List::new(kind, items) {
            contents.insert(id, list);
        }
    }
    (kinds, contents)
}

/// Facts of those fields of [`fields`] whose bit is set; the others are missing.
fn facts<'a>(attributes: &'a [Attribute], present: u16) -> Facts<'a> {
    const IPS: &[IpAddr] = &[IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))];
    let values: [Fact<'a>; 15] = [
        Fact::Bool(true),
        Fact::Int(443),
        Fact::Ip(IPS[0]),
        Fact::Bytes(b"a.example.com"),
        Fact::Bytes(b"a@b.c"),
        Fact::Bytes(b"/A/%62+c\xff"),
        Fact::Bools(&[true, false]),
        Fact::Ints(&[7, -1]),
        Fact::Ips(IPS),
        Fact::Texts(Texts::Strs(&["a.example.com", "example.com", "com"])),
        Fact::Texts(Texts::Strs(&[])),
        Fact::Map(attributes),
        Fact::Map(attributes),
        Fact::Bytes(b"N"),
        Fact::Bytes(b""),
    ];
    let mut facts = Facts::with_slots(values.len());
    for (slot, value) in (0..).zip(values).filter(|(slot, _)| present >> slot & 1 == 1) {
        facts.set(slot, value);
    }
    facts
}

/// Attributes for [`facts`].
fn attributes() -> Vec<Attribute> {
    let attribute = |name: &str, values: &[&str]| Attribute {
        name: name.to_owned(),
        values: values.iter().map(|value| (*value).to_owned()).collect(),
    };
    vec![attribute("a", &["1", "2"]), attribute("b", &[]), attribute("c", &["1"])]
}

/// Whatever the bytes are: an error points into them, or the canonical text reads back as the same expression, says
/// nothing more about itself, and is evaluated to the same, by itself and phase by phase.
#[doc(hidden)]
pub fn fuzz_expression(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let scheme = Scheme::new("the fuzzed filter", fields());
    let (kinds, contents) = lists();
    let ast = match parse(text) {
        Ok(ast) => ast,
        Err(error) => return assert!(error.offset + error.length <= text.len(), "{error:?} in {text:?}"),
    };
    let expression = match Expression::check(&ast, &scheme, &kinds) {
        Ok(expression) => expression,
        Err(error) => {
            let found = text.get(error.offset..error.offset + error.length);
            return assert!(found.is_some(), "{error:?} in {text:?}");
        }
    };
    let canonical = expression.canonical();
    let again = match Expression::new(canonical, &scheme, &kinds) {
        Ok(Some(again)) => again,
        other => panic!("{text:?} was accepted, and its canonical text {canonical:?} was not: {other:?}"),
    };
    assert!(again.same_as(&expression), "{text:?} became {expression:?}, and {canonical:?} {again:?}");
    assert_eq!(again.canonical(), canonical, "the canonical text of {text:?}");
    let rewrites = again.lints().iter().filter(|lint| lint.code.is_rewrite());
    assert_eq!(rewrites.count(), 0, "{canonical:?} is not canonical: {:?}", again.lints());
    let program = expression.compile();
    let attributes = attributes();
    // All, none, and halves that differ from text to text.
    let some = text.bytes().fold(0x5555, |mask: u16, byte| mask.rotate_left(3) ^ u16::from(byte));
    for present in [0xffff, 0, some, !some] {
        let facts = facts(&attributes, present);
        let answer = program.matches(&facts, &contents);
        let plain = Naive { facts: &facts, lists: &contents }.truth(&expression.root);
        assert_eq!(answer, plain, "{text:?}, that is {canonical:?}, with the facts {present:b}");
        assert_eq!(program.matches_by(u8::MAX, &facts, &contents), Some(answer), "{text:?}");
        for phase in [0, 1, 2, u8::MAX] {
            let explained = expression.explain(phase, &facts, &contents);
            assert_eq!(
                explained.truth,
                program.matches_by(phase, &facts, &contents),
                "{text:?} by phase {phase}"
            );
            assert!(explained.because.len() <= 16, "{text:?}");
            if let Some(early) = program.matches_by(phase, &facts, &contents) {
                assert_eq!(early, answer, "{text:?} by phase {phase}");
            }
        }
    }
}
