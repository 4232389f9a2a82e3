//! What expressions cost, each figure beside its budget: `cargo bench -p adit-expr`.
//!
//! A figure is the best of many short runs of one evaluation in a loop, on one core, since everything that disturbs makes
//! it worse. Nothing fails here: on a busy machine a timed assertion would lie.

#![expect(clippy::unwrap_used, reason = "a benchmark may fail by panicking")]
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::fmt::Write;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use adit_expr::{
    Expression, Fact, Facts, Field, List, ListId, ListKind, Meaning, NoLists, Program, Scheme, Texts, Type,
};

/// Counts allocations, since an evaluation is to make none.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator that counts and passes on")]
// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
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

const TEXTS: Type = Type::Array(&Type::Bytes);

fn scheme() -> Scheme {
    let fields: [(&'static str, Type); 6] = [
        ("ip", Type::Ip),
        ("port", Type::Int),
        ("host", Type::Bytes),
        ("agent", Type::Bytes),
        ("domains", TEXTS),
        ("groups", TEXTS),
    ];
    let field =
        |(slot, (name, kind))| Field { name, slot, kind, phase: 0, meaning: Meaning::Plain, caution: None };
    Scheme::new("the benchmark", (0..).zip(fields).map(field))
}

fn facts() -> Facts<'static> {
    let values = [
        Fact::Ip(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9))),
        Fact::Int(8443),
        Fact::Bytes(b"www.Example.org"),
        Fact::Bytes(
            b"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html) and more text up to 100 bytes",
        ),
        Fact::Texts(Texts::Strs(&["a.b.example.org", "b.example.org", "example.org", "org"])),
        Fact::Texts(Texts::Strs(&["engineering", "on-call", "everyone"])),
    ];
    let mut facts = Facts::with_slots(values.len());
    (0..).zip(values).for_each(|(slot, value)| facts.set(slot, value));
    facts
}

fn program(text: &str, kinds: &HashMap<ListId, ListKind>) -> Program {
    Expression::new(text, &scheme(), kinds).unwrap().unwrap().compile()
}

/// The least time of one call, in nanoseconds.
fn measure(mut run: impl FnMut() -> bool) -> f64 {
    let mut rounds = 1_u32;
    let mut time = |rounds: u32| {
        let start = Instant::now();
        for _ in 0..rounds {
            black_box(run());
        }
        start.elapsed().as_secs_f64()
    };
    while time(rounds) < 0.000_5 {
        rounds *= 2;
    }
    (0..100).map(|_| time(rounds) / f64::from(rounds)).fold(f64::INFINITY, f64::min) * 1e9
}

/// A figure, beside its budget where the contract gives one (section 15; lists and 10,000 rules are the gateway's).
fn report(what: &str, nanoseconds: f64, budget: impl Into<Option<f64>>) {
    let human = |ns: f64| match ns {
        ns if ns >= 1e6 => format!("{:.1} ms", ns / 1e6),
        ns if ns >= 1e4 => format!("{:.1} µs", ns / 1e3),
        ns => format!("{ns:.1} ns"),
    };
    let beside = match budget.into() {
        Some(budget) if nanoseconds > budget => format!("   at most {:>9}  OVER", human(budget)),
        Some(budget) => format!("   at most {:>9}", human(budget)),
        None => String::new(),
    };
    println!("{what:<62} {:>10}{beside}", human(nanoseconds));
}

fn evaluation(what: &str, text: &str, budget: impl Into<Option<f64>>) {
    let (program, facts) = (program(text, &HashMap::new()), facts());
    program.matches(&facts, &NoLists);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..1000 {
        black_box(program.matches(black_box(&facts), &NoLists));
    }
    let allocated = ALLOCATIONS.load(Ordering::Relaxed) - before;
    if allocated > 0 {
        println!("{what}: {allocated} allocations in 1000 evaluations, and there are to be none");
    }
    report(what, measure(|| program.matches(black_box(&facts), &NoLists)), budget);
}

fn set(item: impl Fn(u32) -> String, count: u32) -> String {
    (0..count).map(item).collect::<Vec<_>>().join(" ")
}

/// The rules that people write: addresses, ports, names, groups, now and then a regular expression.
fn typical(number: u32) -> String {
    let (a, b) = (number / 256 % 256, number % 256);
    match number % 10 {
        0..=2 => format!("ip in {{10.{a}.{b}.0/24}} and port in {{443 6443}}"),
        3..=5 => format!("any(domains[*] == \"host{number}.example.com\")"),
        6 => format!("host == \"www{number}.example.com\" or host == \"api{number}.example.com\""),
        7 => format!(
            "any(groups[*] in {{\"group{number}\" \"admins{number}\"}}) and port == {}",
            number % 60000
        ),
        8 => format!("ip == 10.{a}.{b}.1 and not(port in {{1..1023}})"),
        _ => format!("host matches \"^service{number}[0-9]+[.]example[.]com$\""),
    }
}

fn walks() {
    let facts = facts();
    for (count, budget) in [(100, 4_000.0), (1_000, 50_000.0)] {
        let rules: Vec<Program> =
            (0..count).map(|number| program(&typical(number), &HashMap::new())).collect();
        let walk = || rules.iter().any(|rule| rule.matches(black_box(&facts), &NoLists));
        assert!(!walk(), "no rule is to match");
        report(&format!("walk of {count} rules, none of which matches"), measure(walk), budget);
    }
    let (scheme, texts) = (scheme(), (0..10_000).map(typical).collect::<Vec<_>>());
    let start = Instant::now();
    for text in &texts {
        black_box(Expression::new(text, &scheme, &NoLists).unwrap().unwrap().compile());
    }
    report("read, check and compile 10,000 rules", start.elapsed().as_secs_f64() * 1e9, 1e9);
}

fn lists() {
    let mut contents = HashMap::new();
    let domains = ListId::from_bytes([0x22; 16]);
    let names: Vec<String> =
        (0..100_000).map(|n| format!("host{n}.some-domain{}.example", n % 977)).collect();
    // Not in the order in which they are looked for, which would be the order in which they lie there.
    let shuffled = (0..names.len()).map(|n| names[n * 7919 % names.len()].as_str());
    contents.insert(domains, List::new(ListKind::Domain, shuffled).unwrap());
    let prefixes = |v4: bool| {
        let mut text = String::new();
        (0..1_000_000_u32).map(move |n| {
            text.clear();
            let spread = n.wrapping_mul(2_654_435_761);
            if v4 {
                write!(text, "{}/28", Ipv4Addr::from(spread & !0xf)).unwrap();
            } else {
                let network = 0x2001_0db8_u128 << 96 | u128::from(spread) << 64;
                write!(text, "{}/64", Ipv6Addr::from(network)).unwrap();
            }
            text.clone()
        })
    };
    let (v4, v6) = (ListId::from_bytes([0x44; 16]), ListId::from_bytes([0x66; 16]));
    for (id, is_v4) in [(v4, true), (v6, false)] {
        let items: Vec<String> = prefixes(is_v4).collect();
        contents.insert(id, List::new(ListKind::Ip, items.iter().map(String::as_str)).unwrap());
    }
    let kinds = HashMap::from([(domains, ListKind::Domain), (v4, ListKind::Ip), (v6, ListKind::Ip)]);
    let in_domains = program(&format!("any(domains[*] in ${domains})"), &kinds);
    let base = facts();
    let missed = measure(|| in_domains.matches(black_box(&base), &contents));
    report("name of 4 labels in a list of 100,000 domains, absent", missed, 400.0);
    let mut turn = 0;
    let found = measure(|| {
        turn = (turn + 1) % names.len();
        let labels = ["a.b.c.d", "b.c.d", "c.d", names[turn].as_str()];
        let mut facts = Facts::with_slots(6);
        facts.set(4, Fact::Texts(Texts::Strs(&labels)));
        in_domains.matches(black_box(&facts), &contents)
    });
    report("the same, another name each time (with making the facts)", found, 400.0);
    for (what, id, is_v4) in [("IPv4", v4, true), ("IPv6", v6, false)] {
        let in_list = program(&format!("ip in ${id}"), &kinds);
        let mut turn = 1_u32;
        let mut facts = Facts::with_slots(6);
        let cost = measure(|| {
            turn = turn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let address = if is_v4 {
                IpAddr::V4(turn.into())
            } else {
                IpAddr::V6((0x2001_0db8_u128 << 96 | u128::from(turn) << 64 | 1).into())
            };
            facts.set(0, Fact::Ip(address));
            in_list.matches(black_box(&facts), &contents)
        });
        report(&format!("another address each time in 1,000,000 {what} prefixes"), cost, 200.0);
    }
}

fn main() {
    evaluation("ip == 203.0.113.1", "ip == 203.0.113.1", 10.0);
    evaluation("port == 443", "port == 443", 10.0);
    evaluation("host == \"www.example.com\"", "host == \"www.example.com\"", 10.0);
    evaluation("port in {7 ports}", "port in {80 443 8080 53 22 25 110}", None);
    let prefixes =
        |count| format!("ip in {{{}}}", set(|n| format!("10.{}.{}.0/24", n / 200, n % 200), count));
    evaluation("ip in {21 prefixes}", &prefixes(21), None);
    evaluation("ip in {1,000 prefixes}", &prefixes(1000), 60.0);
    evaluation("host in {60 strings}", &format!("host in {{{}}}", set(|n| format!("\"h{n}\""), 60)), None);
    evaluation("agent contains", "agent contains \"Safari\"", None);
    evaluation(
        "agent matches (?i)googlebot/\\d+\\.\\d+",
        "agent matches \"(?i)googlebot/\\d+\\.\\d+\"",
        100.0,
    );
    evaluation("lower(host) == ...", "lower(host) == \"www.example.com\"", None);
    evaluation("any(domains[*] == ...) of 4", "any(domains[*] == \"example.com\")", None);
    evaluation("any(a or b) of 4", "any(domains[*] == \"a.com\" or domains[*] == \"b.com\")", None);
    walks();
    lists();
}
