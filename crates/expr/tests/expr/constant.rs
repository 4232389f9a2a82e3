//! Expressions whose answer needs no facts.

use adit_expr::{Expression, NoLists};

use super::scheme::scheme;

fn check(text: &str, expected: Option<bool>) {
    let expression = Expression::new(text, &scheme(), &NoLists).unwrap().unwrap();
    assert_eq!(expression.constant(), expected, "{text}");
}

#[test]
fn what_no_facts_can_change_is_known() {
    for never in [
        "net.dst.port in {}",
        "net.dst.port in {} and net.protocol == \"tcp\"",
        "net.dst.port == 1 and net.dst.port == 2",
        "net.sni.host == \"a\" and net.dst.port == 1 and net.sni.host == r\"b\"",
        "any(http.conn.dst_ip[*] in {})",
        "not(not(net.dst.ip in {}))",
        "net.dst.port in {} or net.src.port in {}",
    ] {
        check(never, Some(false));
    }
    check("not(net.dst.port in {})", Some(true));
    check("net.dst.port == 1 or not(net.dst.port in {})", Some(true));
    for open in [
        "net.dst.port == 1 and net.dst.port == 1",
        "net.dst.port == 1 and net.src.port == 2",
        "net.sni.host == \"a\" and net.sni.host == r\"a\"",
        "net.dst.port == 1 or net.dst.port == 2",
        "any(app.ids[*] == 1 and app.ids[*] == 2)",
        "any(not app.ids[*] in {})",
        "net.dst.port in {} or net.src.port == 1",
        "net.dst.port in {} xor net.src.port == 1",
    ] {
        check(open, None);
    }
}
