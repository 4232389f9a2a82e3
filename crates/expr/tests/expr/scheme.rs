//! The fields of the contract's vectors.

use std::collections::HashMap;

use adit_expr::{Field, ListId, ListKind, Meaning, Scheme, Type};

const TEXTS: Type = Type::Array(&Type::Bytes);
const MAP: Type = Type::Map(&TEXTS);
const CONTINENTS: &[(&str, &str)] = &[("north america", "NA"), ("europe", "EU")];

pub(crate) fn scheme() -> Scheme {
    let fields: [(&'static str, Type, Meaning); 39] = [
        ("net.dst.ip", Type::Ip, Meaning::Plain),
        ("net.dst.port", Type::Int, Meaning::Plain),
        ("net.src.port", Type::Int, Meaning::Plain),
        ("net.protocol", Type::Bytes, Meaning::Plain),
        ("net.vnet_id", Type::Bytes, Meaning::Plain),
        ("net.is_isolated", Type::Bool, Meaning::Plain),
        ("net.sni.host", Type::Bytes, Meaning::Host),
        ("net.sni.domains", TEXTS, Meaning::Host),
        ("http.conn.dst_ip", Type::Array(&Type::Ip), Meaning::Plain),
        ("http.conn.hostname", Type::Bytes, Meaning::Host),
        ("http.request.host", Type::Bytes, Meaning::Host),
        ("http.request.domains", TEXTS, Meaning::Host),
        ("http.request.method", Type::Bytes, Meaning::Plain),
        ("http.request.uri", Type::Bytes, Meaning::Listed(ListKind::Url)),
        ("http.request.uri.path", Type::Bytes, Meaning::Plain),
        ("http.request.uri.query", Type::Bytes, Meaning::Plain),
        ("http.response.status_code", Type::Int, Meaning::Plain),
        ("http.src_ip.geo.continent", Type::Bytes, Meaning::Coded(CONTINENTS)),
        ("dns.fqdn", Type::Bytes, Meaning::Host),
        ("dns.domains", TEXTS, Meaning::Host),
        ("dns.src_ip", Type::Ip, Meaning::Plain),
        ("dns.query_rtype", Type::Bytes, Meaning::Plain),
        ("dns.location", Type::Bytes, Meaning::Listed(ListKind::Location)),
        ("dns.resolved_ip", Type::Array(&Type::Ip), Meaning::Plain),
        ("dns.resolved_ips", Type::Array(&Type::Ip), Meaning::Plain),
        ("dns.authoritative_ns_ips", Type::Array(&Type::Ip), Meaning::Plain),
        ("dns.security_category", Type::Array(&Type::Int), Meaning::Listed(ListKind::Category)),
        ("app.ids", Type::Array(&Type::Int), Meaning::Plain),
        ("identity.email", Type::Bytes, Meaning::Email),
        ("identity.groups.id", TEXTS, Meaning::Plain),
        ("identity.groups.name", TEXTS, Meaning::Plain),
        ("identity.groups.email", TEXTS, Meaning::Email),
        ("identity.saml_attributes", MAP, Meaning::Pairs),
        ("identity.oidc_claims", MAP, Meaning::Pairs),
        ("plain.map", MAP, Meaning::Plain),
        ("device_posture.checks.passed", TEXTS, Meaning::Plain),
        ("device_posture.checks.failed", TEXTS, Meaning::Plain),
        ("flags", Type::Array(&Type::Bool), Meaning::Plain),
        ("access.private_app", Type::Bool, Meaning::Plain),
    ];
    let field = |(slot, (name, kind, meaning)): (u16, (&'static str, Type, Meaning))| {
        let caution = (name == "dns.resolved_ip").then_some("dns.resolved_ip is the resolver's address");
        // As in the network filter: what the first bytes of the client say is known after all else.
        let phase = u8::from(name.starts_with("net.sni."));
        Field { name, slot, kind, phase, meaning, caution }
    };
    Scheme::new("the filter of the tests", (0..).zip(fields).map(field))
        .with_elsewhere([("os.name", "device profiles")])
}

/// `$11…` IP, `$22…` DOMAIN, `$33…` CATEGORY, `$44…` EMAIL, `$55…` URL.
pub(crate) fn lists() -> HashMap<ListId, ListKind> {
    let kinds = [
        (0x11, ListKind::Ip),
        (0x22, ListKind::Domain),
        (0x33, ListKind::Category),
        (0x44, ListKind::Email),
        (0x55, ListKind::Url),
    ];
    kinds.into_iter().map(|(byte, kind)| (ListId::from_bytes([byte; 16]), kind)).collect()
}
