//! The canonical text, and the remarks on what was rewritten or looks like a mistake.

use adit_expr::Expression;

use crate::scheme::{lists, scheme};

fn check(text: &str, canonical: &str, lints: &[&str]) {
    let expression =
        Expression::new(text, &scheme(), &lists()).unwrap_or_else(|error| panic!("{text}: {error}"));
    let expression = expression.unwrap();
    assert_eq!(expression.canonical(), canonical, "{text}");
    let found: Vec<&str> = expression.lints().iter().map(|lint| lint.code.as_str()).collect();
    assert_eq!(found, lints, "{text}: {:?}", expression.lints());
}

fn unchanged(text: &str) {
    check(text, text, &[]);
}

#[test]
fn a_canonical_text_comes_back_byte_for_byte() {
    unchanged("any(http.conn.dst_ip[*] in $11111111111111111111111111111111)");
    unchanged("not(any(http.conn.dst_ip[*] in {10.0.0.0/8 10.0.0.1 10.0.0.1/32 2001:db8::/32 ::1..::5}))");
    unchanged("net.dst.port in {1..1023 8000 -5}");
    unchanged("not net.dst.port == 22 and net.protocol == \"tcp\"");
    unchanged("(net.dst.port == 22 or net.dst.port == 443) and net.protocol == \"udp\"");
    unchanged("net.dst.port == 22 or net.dst.port == 443 xor net.protocol == \"udp\" and net.is_isolated");
    unchanged("not(not net.is_isolated)");
    unchanged("http.request.host == r#\"a\"b\"#");
    unchanged("http.request.host == \"a\\\"b\\\\\\xff\\x0a é\"");
    unchanged("http.request.host matches \"\\.example\\.com$\"");
    unchanged("http.request.host matches r\"^(a|b)\\.\"");
    unchanged("http.request.host matches \"a\\\"b\"");
    unchanged("http.request.host strict wildcard \"*.a\"");
    unchanged("any(lower(http.request.domains[*])[*] == \"example.com\")");
    unchanged("substring(http.request.uri.path, 0, -3) == \"a\"");
    unchanged("any(http.conn.dst_ip[*] == 10.0.0.1 or http.conn.dst_ip[*] == 10.0.0.2)");
    unchanged("any(net.sni.host[*] in {\"a\"})");
    unchanged("any(identity.saml_attributes[*] == \"groups=it-admins\")");
    unchanged("any(identity.saml_attributes[\"department\"][*] in {\"Marketing\"})");
    unchanged("net.dst.port & 255");
}

#[test]
fn spellings_become_canonical() {
    check("\tnet.dst.port  eq\n0x1bb", "net.dst.port == 443", &[]);
    check("net.dst.port == 0443", "net.dst.port == 291", &[]);
    check(
        "!net.is_isolated && net.dst.port ne 1 || net.dst.port bitwise_and 1 ^^ net.dst.port le 3",
        "not net.is_isolated and net.dst.port != 1 or net.dst.port & 1 xor net.dst.port <= 3",
        &[],
    );
    check("http.request.host ~ \"a\"", "http.request.host matches \"a\"", &[]);
    check("http.request.host == 61:62:63", "http.request.host == \"abc\"", &[]);
    check("http.request.host == \"a\\x62\\143\"", "http.request.host == \"abc\"", &[]);
    check(
        "(((net.dst.port == 1)) and (net.dst.port == 2 and net.dst.port == 3))",
        "net.dst.port == 1 and net.dst.port == 2 and net.dst.port == 3",
        &[],
    );
    check("not any(flags)", "not(any(flags))", &[]);
    check("not (net.dst.port == 1)", "not net.dst.port == 1", &[]);
    check(
        "any((http.conn.dst_ip[*] == 10.0.0.1 or http.conn.dst_ip[*] == 10.0.0.2))",
        "any(http.conn.dst_ip[*] == 10.0.0.1 or http.conn.dst_ip[*] == 10.0.0.2)",
        &[],
    );
    check("net.dst.ip in {2001:DB8:0::1}", "net.dst.ip in {2001:db8::1}", &[]);
}

#[test]
fn spellings_of_the_documentation_are_rewritten_with_a_remark() {
    check(
        "net.dst.ip in $11111111-1111-1111-1111-111111111111",
        "net.dst.ip in $11111111111111111111111111111111",
        &["compat.list_dashes"],
    );
    check(
        "any(identity.groups[*].name in {\"finance\"})",
        "any(identity.groups.name[*] in {\"finance\"})",
        &["compat.index_in_name"],
    );
    check(
        "any(identity.saml_attributes[\"k\"] in {\"x\"})",
        "any(identity.saml_attributes[\"k\"][*] in {\"x\"})",
        &["compat.index_added"],
    );
    check("net.sni.domains == \"x\"", "any(net.sni.domains[*] == \"x\")", &["compat.array_compared"]);
    check("net.sni.domains != \"x\"", "not(any(net.sni.domains[*] == \"x\"))", &["compat.array_compared"]);
    check(
        "dns.authoritative_ns_ips == \"1.2.3.4\"",
        "any(dns.authoritative_ns_ips[*] == 1.2.3.4)",
        &["compat.quoted_address", "compat.array_compared"],
    );
    check(
        "device_posture.checks.passed[*] == \"disk\"",
        "any(device_posture.checks.passed[*] == \"disk\")",
        &["compat.any_added"],
    );
    check("net.dst.ip[*] in {10.0.0.1}", "any(net.dst.ip[*] in {10.0.0.1})", &["compat.any_added"]);
    check(
        "net.dst.port == 1 and http.conn.dst_ip[*] == 10.0.0.1",
        "net.dst.port == 1 and any(http.conn.dst_ip[*] == 10.0.0.1)",
        &["compat.any_added"],
    );
    check("flags", "any(flags)", &["compat.any_added"]);
    check("net.is_isolated == true", "net.is_isolated", &["compat.flag_compared"]);
    check("net.is_isolated != true", "not net.is_isolated", &["compat.flag_compared"]);
    check("net.is_isolated ne false", "net.is_isolated", &["compat.flag_compared"]);
    check("any(flags[*] == false)", "any(not flags)", &["compat.flag_compared"]);
    check("net.src.port == \"2222\"", "net.src.port == 2222", &["compat.quoted_number"]);
    check("net.src.port in {\"80\" 81}", "net.src.port in {80 81}", &["compat.quoted_number"]);
    check("dns.src_ip == \"1.1.1.1\"", "dns.src_ip == 1.1.1.1", &["compat.quoted_address"]);
    check("dns.src_ip == \"192.168.86.0/27\"", "dns.src_ip in {192.168.86.0/27}", &["compat.quoted_address"]);
    check(
        "dns.src_ip != \"192.168.86.0/27\"",
        "not dns.src_ip in {192.168.86.0/27}",
        &["compat.quoted_address"],
    );
    check("any(flags[*])", "any(flags)", &["compat.flags_indexed"]);
    check(
        "http.src_ip.geo.continent == \"North America\"",
        "http.src_ip.geo.continent == \"NA\"",
        &["compat.named_value"],
    );
    check(
        "dns.location in {\"01302951-49f9-47c9-a400-0297e60b6a10\"}",
        "dns.location in {\"0130295149f947c9a4000297e60b6a10\"}",
        &["compat.location_dashes"],
    );
}

#[test]
fn what_looks_like_a_mistake_is_remarked_on() {
    check(
        "http.request.host == \"WWW.Example.com\"",
        "http.request.host == \"www.example.com\"",
        &["value.lowered"],
    );
    check("identity.email in {\"A@b.c\"}", "identity.email in {\"a@b.c\"}", &["value.lowered"]);
    check("http.request.host contains \"WWW\"", "http.request.host contains \"WWW\"", &[]);
    check(
        "http.request.host matches \".*\\\\.example\\\\.com\"",
        "http.request.host matches \".*\\\\.example\\\\.com\"",
        &["regex.double_escaped"],
    );
    check(
        "identity.email matches \".*@company.com\"",
        "identity.email matches \".*@company.com\"",
        &["regex.unanchored"],
    );
    check("any(http.conn.dst_ip[*] != 10.0.0.1)", "any(http.conn.dst_ip[*] != 10.0.0.1)", &["any.differs"]);
    check(
        "any(net.sni.domains[*] == \"a\" and dns.domains[*] == \"a\")",
        "any(net.sni.domains[*] == \"a\" and dns.domains[*] == \"a\")",
        &["any.pairing"],
    );
    check(
        "not(http.request.uri.query in $55555555555555555555555555555555)",
        "not http.request.uri.query in $55555555555555555555555555555555",
        &["list.kind"],
    );
    check(
        "any(dns.resolved_ip[*] in {10.0.0.0/8})",
        "any(dns.resolved_ip[*] in {10.0.0.0/8})",
        &["field.mistaken"],
    );
    check("net.dst.port in {}", "net.dst.port in {}", &["set.empty"]);
}

#[test]
fn an_expression_tells_what_it_needs() {
    let text = "any(http.conn.dst_ip[*] in $11111111111111111111111111111111) and \
                (net.sni.host in $22222222222222222222222222222222 or net.sni.host in $22222222222222222222222222222222)";
    let expression = Expression::new(text, &scheme(), &lists()).unwrap().unwrap();
    let ids: Vec<String> = expression.lists().iter().map(ToString::to_string).collect();
    assert_eq!(ids, ["1".repeat(32), "2".repeat(32)]);
    assert_eq!((expression.phase(), expression.compile().phase()), (1, 1));
    assert_eq!(Expression::new(" \t\n", &scheme(), &lists()).unwrap(), None);
}
