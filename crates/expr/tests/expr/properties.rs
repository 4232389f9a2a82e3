//! Whatever the text is.

use adit_expr::fuzz_expression;
use proptest::prelude::*;

/// A piece of an expression of the fuzzed scheme: `adit_expr::fuzz_expression` has one field of each type.
fn piece() -> impl Strategy<Value = String> {
    let pieces = [
        "flag",
        "port",
        "ip",
        "host",
        "mail",
        "path",
        "flags",
        "ids",
        "ips",
        "hosts",
        "groups.name",
        "map",
        "pairs",
        "area",
        "place",
        "groups[*].name",
        "[*]",
        "[0]",
        "[\"a\"]",
        "==",
        "!=",
        "<",
        ">=",
        "in",
        "contains",
        "matches",
        "wildcard",
        "strict wildcard",
        "&",
        "~",
        "and",
        "or",
        "xor",
        "not",
        "!",
        "(",
        ")",
        "any(",
        "all(",
        "{",
        "}",
        "10.0.0.1",
        "10.0.0.0/8",
        "10.0.0.1..10.0.0.9",
        "::1",
        "443",
        "\"443\"",
        "1..9",
        "0x1f",
        "-7",
        "\"a\"",
        "\"a.example.com\"",
        "\"north\"",
        "r#\"a\"#",
        "61:62",
        "true",
        "false",
        "$11111111111111111111111111111111",
        "$22222222222222222222222222222222",
        "lower(",
        "len(",
        "starts_with(",
        "substring(",
        "concat(",
        "to_string(",
        "url_decode(",
        "cidr(",
        "regex_replace(",
        ",",
    ];
    prop_oneof![9 => proptest::sample::select(pieces.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,3}"]
}

/// An expression that makes sense more often than not.
fn expression() -> impl Strategy<Value = String> {
    let array = prop_oneof![
        "hosts\\[\\*\\] (==|!=|in|contains|wildcard) (\"a\\*?[.a-c\\\\\\\\]{0,3}\"|\\{\"a\" \"b\"\\}|\\{\\})",
        "ips\\[\\*\\] (==|!=|in) (10\\.0\\.0\\.[0-9]|\\{10\\.0\\.0\\.0/8 ::1\\})",
        "lower\\(hosts\\[\\*\\]\\)\\[\\*\\] (==|!=|<) \"[ac.]{0,3}\"",
        "concat\\(hosts, groups\\.name\\)\\[(\\*|1)\\] (==|!=) \"com\"",
        "(pairs|map)(\\[\\*\\])?(\\[\"[abc]\"\\])?(\\[\\*\\])? (==|!=) \"(a=)?[12]\"",
        Just("flags".to_owned()),
        Just("starts_with(hosts[*], \"a\")".to_owned()),
    ];
    let scalar = prop_oneof![
        "port (==|!=|<|<=|>|>=|&|eq) (443|0x1bb|-1|\"443\")",
        "port in \\{(443|1\\.\\.9| ){0,5}\\}",
        "ip (==|!=|<|in) (10\\.0\\.0\\.1|\"10\\.0\\.0\\.1\"|\\{10\\.0\\.0\\.0/8\\}|\\$1{32})",
        "(host|path|mail) (==|!=|<|>|contains|matches|wildcard) \"[a.*@/\\\\x62]{0,6}\"",
        "len\\((host|path|hosts|ids)\\) (==|>) [0-9]",
        "substring\\(path, -?[0-9](, -?[0-9])?\\) == \"a\"",
        "concat\\(host, path\\) contains \"m/\"",
        "regex_replace\\(host, \"\\([a-z]\\)\", \"\\$\\{1\\}x\"\\) == \"ax.example.com\"",
        "(url_decode|upper|lower)\\(path\\) == \"/A/b c\"",
        "cidr\\(ip, [0-9], 64\\) == 10\\.0\\.0\\.0",
        "to_string\\((ip|port|flag)\\) == \"443\"",
        "(flag|flags|flag == true|flag != true|ids == 7|hosts != \"a\")",
    ];
    let condition = |within: BoxedStrategy<String>, quantified: BoxedStrategy<String>| {
        prop_oneof![
            3 => within.clone(),
            2 => (prop_oneof![Just("any"), Just("all")], quantified.clone(), quantified, 0..4)
                .prop_map(|(quantifier, a, b, how)| match how {
                    0 => format!("{quantifier}({a} and {b})"),
                    1 => format!("{quantifier}(not {a} or ({b}))"),
                    _ => format!("{quantifier}({a})"),
                }),
            2 => (within.clone(), proptest::sample::select(vec!["and", "or", "xor", "&&", "||"]), within.clone())
                .prop_map(|(a, connective, b)| format!("{a} {connective} {b}")),
            1 => within.clone().prop_map(|a| format!("({a})")),
            1 => within.prop_map(|a| format!("not({a})")),
        ]
    };
    let array = array.boxed();
    scalar.boxed().prop_recursive(4, 24, 3, move |inner| condition(inner.boxed(), array.clone()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn bytes_are_read_without_a_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz_expression(&data);
    }

    #[test]
    fn pieces_in_any_order_are_read_printed_and_read_again(pieces in proptest::collection::vec(piece(), 0..14)) {
        fuzz_expression(pieces.join(" ").as_bytes());
    }

    #[test]
    fn expressions_are_printed_read_again_and_evaluated(text in expression()) {
        fuzz_expression(text.as_bytes());
    }
}
