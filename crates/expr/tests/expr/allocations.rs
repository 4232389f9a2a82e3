//! Evaluation allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashMap;

use adit_expr::{Expression, Fact, Facts, List, ListId, ListKind, Texts};

use crate::scheme::{lists, scheme};

thread_local! {
    static ALLOCATIONS: Cell<u32> = const { Cell::new(0) };
}

/// Counts this thread's allocations.
struct Counting;

#[expect(unsafe_code, reason = "an allocator that counts and passes on")]
// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn an_evaluation_allocates_nothing() {
    let scheme = scheme();
    let contents = HashMap::from([
        (ListId::from_bytes([0x11; 16]), List::new(ListKind::Ip, ["10.0.0.0/8"]).unwrap()),
        (ListId::from_bytes([0x22; 16]), List::new(ListKind::Domain, ["example.org"]).unwrap()),
    ]);
    let mut facts = Facts::default();
    let mut set = |name: &str, fact| facts.set(scheme.field(name).unwrap().slot, fact);
    set("net.dst.ip", Fact::Ip("192.0.2.1".parse().unwrap()));
    set("net.dst.port", Fact::Int(443));
    set("http.request.host", Fact::Bytes(b"WWW.Example.com"));
    set("http.request.uri.path", Fact::Bytes(b"/a%20b"));
    set("net.sni.domains", Fact::Texts(Texts::Strs(&["www.example.com", "example.com", "com"])));
    for text in [
        "net.dst.port in {22 80 8000..9000} or net.dst.ip in {10.0.0.0/8 2001:db8::/32}",
        "net.dst.ip in $11111111111111111111111111111111",
        "any(net.sni.domains[*] in $22222222222222222222222222222222)",
        "any(net.sni.domains[*] == \"a\" or net.sni.domains[*] contains \"b\" xor not net.sni.domains[*] == \"c\")",
        "all(net.sni.domains[*] wildcard \"*e*m\")",
        "lower(http.request.host) == \"www.example.com\" and len(net.sni.domains) == 3",
        "any(upper(net.sni.domains[*])[*] == \"COM\")",
        "url_decode(http.request.uri.path) == \"/a b\" or concat(http.request.host, http.request.uri.path) == \"\"",
        "to_string(net.dst.ip) == \"x\" or cidr(net.dst.ip, 24, 64) == 192.0.2.0",
        "http.request.host matches \"(?i)^www[.]example[.](com|org)$\"",
        "identity.email == \"a\" or any(identity.groups.name[*] in {\"a\" \"b\"})",
    ] {
        let program = Expression::new(text, &scheme, &lists()).unwrap().unwrap().compile();
        // A regular expression makes its cache when it is used first.
        let first = program.matches(&facts, &contents);
        let before = ALLOCATIONS.with(Cell::get);
        let again = program.matches(&facts, &contents);
        let early = program.matches_by(0, &facts, &contents);
        assert_eq!(ALLOCATIONS.with(Cell::get), before, "{text}");
        assert_eq!(first, again, "{text}");
        assert!(early.is_none_or(|early| early == again), "{text}");
    }
}
