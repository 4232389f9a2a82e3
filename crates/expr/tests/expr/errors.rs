//! What is refused, where, and what the text says.

use adit_expr::{Expression, MAX_DEPTH, MAX_LENGTH, MAX_REGEXES, MAX_SET_ITEMS};

use crate::scheme::{lists, scheme};

fn refused(text: &str) -> adit_expr::Error {
    match Expression::new(text, &scheme(), &lists()) {
        Ok(accepted) => panic!("{text} was accepted as {}", accepted.unwrap().canonical()),
        Err(error) => error,
    }
}

fn check(text: &str, code: &str, expected: &str) {
    let error = refused(text);
    assert_eq!((error.code.as_str(), error.to_string().as_str()), (code, expected), "{text}");
}

#[test]
fn an_error_says_where_and_what_would_be_right() {
    check(
        "any(http.foo[*] == \"x\")",
        "unknown_identifier",
        "filter parsing error (1:5): unknown identifier http.foo",
    );
    check(
        "net.dst.prot == 1",
        "unknown_identifier",
        "filter parsing error (1:1): unknown identifier net.dst.prot: did you mean net.dst.port?",
    );
    check(
        "http.host == \"x\"",
        "unknown_identifier",
        "filter parsing error (1:1): unknown identifier http.host: did you mean http.request.host?",
    );
    check(
        "dns.fqdn == \"a\" AND dns.fqdn == \"b\"",
        "trailing_input",
        "filter parsing error (1:17): unexpected AND: operators are lower case, write and",
    );
    check(
        "net.dst.ip in {10.0.0.5/8}",
        "bad_cidr_host_bits",
        "filter parsing error (1:16): 10.0.0.5/8 has bits set behind its length: did you mean 10.0.0.0/8?",
    );
    check(
        "net.dst.ip == 10.0.0.0/8",
        "bad_ip",
        "filter parsing error (1:15): 10.0.0.0/8 is a prefix and no address: write in {10.0.0.0/8}",
    );
    check(
        "dns.fqdn == \"é\" and\n  dns.fqdn == b",
        "type_mismatch",
        "filter parsing error (2:15): a string was expected, in double quotes: \"b\"",
    );
    check(
        "any(http.conn.dst_ip[] in $11111111111111111111111111111111)",
        "trailing_input",
        "filter parsing error (1:22): unexpected ]: an index is a number, a string or *: each element of an array \
         is written [*]",
    );
    check(
        "dns.fqdn in {\"a\", \"b\"}",
        "trailing_input",
        "filter parsing error (1:17): unexpected ,: items of a set are separated by blanks, without commas",
    );
    check(
        "os.name == \"x\"",
        "field_not_in_filter",
        "filter parsing error (1:1): os.name is a field of device profiles, and cannot be used in the filter of the \
         tests",
    );
}

#[test]
fn each_mistake_has_its_code() {
    let cases = [
        ("net.dst.port == 443 and", "unexpected_end"),
        ("net.dst.port in {443 80", "unexpected_end"),
        ("net.dst.port ==", "unexpected_end"),
        ("(net.dst.port == 1", "unexpected_end"),
        ("()", "empty_expression"),
        ("any()", "empty_expression"),
        ("net.dst.port == 1)", "trailing_input"),
        ("\"x\" == dns.fqdn", "trailing_input"),
        ("@", "trailing_input"),
        ("NOT net.is_isolated", "unknown_identifier"),
        ("net.is_isolated == TRUE", "type_mismatch"),
        ("net.is_isolated < true", "unsupported_operator"),
        ("net.dst.port", "type_mismatch"),
        ("net.dst.port contains 1", "unsupported_operator"),
        ("net.dst.ip contains \"1\"", "unsupported_operator"),
        ("dns.fqdn & 1", "unsupported_operator"),
        ("net.dst.port == \"x\"", "type_mismatch"),
        ("net.dst.port == 99999999999999999999", "bad_int"),
        ("net.dst.port == 08", "bad_int"),
        ("net.dst.port == {1}", "type_mismatch"),
        ("net.dst.port in 1", "type_mismatch"),
        ("net.dst.port in {22..20}", "bad_range"),
        ("net.dst.ip in {10.0.0.1..::1}", "bad_range"),
        ("net.dst.ip in {10.0.0.9..10.0.0.1}", "bad_range"),
        ("net.dst.ip == 10.0.0", "bad_ip"),
        ("net.dst.ip in {10.0.0.0/33}", "bad_ip"),
        ("net.dst.ip == \"x\"", "type_mismatch"),
        ("dns.fqdn == \"a\\n\"", "bad_escape"),
        ("dns.fqdn == \"a\\xg1\"", "bad_escape"),
        ("dns.fqdn == \"a\\400\"", "bad_escape"),
        ("dns.fqdn == \"a", "missing_quote"),
        ("dns.fqdn == r#\"a\"", "missing_quote"),
        ("dns.fqdn matches \"(\"", "bad_regex"),
        ("dns.fqdn matches \"(?=a)\"", "bad_regex"),
        ("dns.fqdn matches \".{4079,65535}{99}\"", "regex_too_big"),
        ("dns.fqdn wildcard \"**\"", "bad_wildcard"),
        ("dns.fqdn wildcard \"*a*a*a*a*a*a*a*a*\"", "bad_wildcard"),
        ("any(dns.domains[*] in $AAAA0000)", "bad_list_name"),
        ("any(dns.domains[*] in $[list:Name])", "bad_list_name"),
        ("any(dns.domains[*] in $)", "bad_list_name"),
        ("any(dns.domains[*] in $name)", "list_not_found"),
        ("any(dns.domains[*] in $99999999999999999999999999999999)", "list_not_found"),
        ("any(dns.domains[*] in $11111111111111111111111111111111)", "list_type_mismatch"),
        ("net.dst.ip in $22222222222222222222222222222222", "list_type_mismatch"),
        ("net.dst.port in $22222222222222222222222222222222", "list_type_mismatch"),
        ("identity.email in $22222222222222222222222222222222", "list_type_mismatch"),
        ("dns.fqdn in \"list\"", "type_mismatch"),
        ("any(net.is_isolated)", "type_mismatch"),
        ("any(net.sni.domains)", "type_mismatch"),
        ("any(dns.fqdn == \"a\")", "type_mismatch"),
        ("any(net.sni.domains[*] == \"a\" and net.dst.port == 1)", "type_mismatch"),
        ("any(any(net.sni.domains[*] == \"a\"))", "type_mismatch"),
        ("identity.saml_attributes == \"a\"", "type_mismatch"),
        ("identity.saml_attributes[0] == \"a\"", "index_type"),
        ("net.sni.domains[\"a\"] == \"a\"", "index_type"),
        ("net.sni.domains[-1] == \"a\"", "index_type"),
        ("net.dst.port[0] == 1", "index_type"),
        ("any(plain.map[*][*][*] == \"a\")", "index_type"),
        ("lower(\"ABC\") == \"abc\"", "arg_kind"),
        ("lower() == \"abc\"", "arg_count"),
        ("lower(dns.fqdn, dns.fqdn) == \"abc\"", "arg_count"),
        ("lower(net.dst.port) == \"abc\"", "arg_type"),
        ("lower(net.sni.domains) == \"abc\"", "arg_type"),
        ("starts_with(dns.fqdn, dns.fqdn)", "arg_kind"),
        ("substring(dns.fqdn, \"a\") == \"a\"", "arg_kind"),
        ("cidr(net.dst.ip, 33, 64) == 10.0.0.0", "arg_type"),
        ("concat(dns.fqdn, net.sni.domains) == \"a\"", "arg_type"),
        ("any(concat(dns.fqdn, net.sni.domains[*])[*] == \"a\")", "arg_kind"),
        ("foo(dns.fqdn)", "unknown_identifier"),
        ("lowr(dns.fqdn) == \"a\"", "unknown_identifier"),
    ];
    for (text, code) in cases {
        let error = refused(text);
        assert_eq!(error.code.as_str(), code, "{text}: {error}");
    }
}

#[test]
fn limits_are_kept() {
    let nested = |depth: usize| format!("{}net.is_isolated{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Expression::new(&nested(MAX_DEPTH), &scheme(), &lists()).is_ok());
    assert_eq!(refused(&nested(MAX_DEPTH + 1)).code.as_str(), "nesting_limit");
    assert_eq!(refused(&"not ".repeat(2000)).code.as_str(), "nesting_limit");
    assert_eq!(refused(&"(".repeat(MAX_LENGTH)).code.as_str(), "nesting_limit");
    assert_eq!(refused(&"lower(".repeat(2000)).code.as_str(), "nesting_limit");
    let long = format!("dns.fqdn == \"{}\"", "é".repeat(MAX_LENGTH / 2));
    assert_eq!(refused(&long).code.as_str(), "expression_too_long");
    // What is written within the limits, but whose canonical text would not be.
    let nots = |depth: usize| format!("{}net.is_isolated", "not ".repeat(depth));
    assert!(Expression::new(&nots(MAX_DEPTH), &scheme(), &lists()).is_ok());
    let deep = format!("{}net.sni.domains == \"x\"{}", "(".repeat(MAX_DEPTH), ")".repeat(MAX_DEPTH));
    assert!(Expression::new(&deep, &scheme(), &lists()).is_ok());
    let deep = format!("{}net.sni.domains == \"x\"", "not ".repeat(MAX_DEPTH));
    assert_eq!(refused(&deep).code.as_str(), "nesting_limit");
    let grows = format!("dns.fqdn == \"{}\"", "\u{1}".repeat(MAX_LENGTH / 2));
    assert_eq!(refused(&grows).code.as_str(), "expression_too_long");
    let set = format!("net.dst.port in {{{}}}", "1 ".repeat(MAX_SET_ITEMS + 1));
    assert_eq!(refused(&set).code.as_str(), "set_too_large");
    let regexes = ["dns.fqdn matches \"a\""].repeat(MAX_REGEXES + 1).join(" or ");
    assert_eq!(refused(&regexes).code.as_str(), "too_many_regexes");
}
