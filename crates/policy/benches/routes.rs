//! What the route of a flow costs, and what a change of a route costs, beside a trie of the crate `prefix-trie`:
//! `cargo bench -p adit-policy`.
//!
//! Addresses are asked for in an order that no cache foresees, each the best of several rounds, on one core. A change is a route
//! put into a state and the snapshot made after it, while the snapshot before is still held: what an edge does. Nothing fails
//! here: on a busy machine a timed assertion would lie.

#![expect(clippy::unwrap_used, reason = "a benchmark may fail by panicking")]
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use adit_model::{AccountId, Change, ChangeBatch, Cidr, Route, RouteId, TunnelId, VirtualNetworkId};
use adit_policy::{Snapshot, State};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use uuid::Uuid;

/// Counts allocations, since a look-up is to make none.
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

const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
const NETWORK: VirtualNetworkId = VirtualNetworkId::from_uuid(Uuid::from_u128(2));
/// Look-ups of a round.
const LOOKUPS: usize = 1 << 17;
const ROUNDS: usize = 9;
/// Changes of a round.
const CHANGES: u128 = 100;

/// Numbers in no order, the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn v4(number: u64) -> IpAddr {
    // All of it in 10.0.0.0/8 and 172.0.0.0/8: dense where routes are.
    let [_, _, _, _, top, high, middle, low] = number.to_be_bytes();
    Ipv4Addr::new(if top & 1 == 0 { 10 } else { 172 }, high, middle, low).into()
}

fn v6(number: u64) -> IpAddr {
    Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(number) << 48).into()
}

fn networks(count: usize, address: fn(u64) -> IpAddr, lengths: [u8; 4]) -> Vec<IpNet> {
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    let length = |number: u64| lengths[usize::try_from(number >> 40 & 3).unwrap()];
    let one = |number| IpNet::new(address(number), length(number)).unwrap().trunc();
    (0..count).map(|_| one(numbers.next())).collect()
}

fn route(number: u128, network: IpNet) -> Route {
    Route {
        id: RouteId::from_uuid(Uuid::from_u128(number)),
        account: ACCOUNT,
        virtual_network: NETWORK,
        network: Cidr::new(network).unwrap(),
        tunnel: TunnelId::from_uuid(Uuid::from_u128(3)),
    }
}

/// The least time of one of so many, in nanoseconds.
fn measure(count: usize, mut round: impl FnMut()) -> f64 {
    let mut time = || {
        let start = Instant::now();
        round();
        start.elapsed().as_secs_f64()
    };
    let best = (0..ROUNDS).map(|_| time()).fold(f64::INFINITY, f64::min);
    best * 1e9 / f64::from(u32::try_from(count).unwrap())
}

fn human(nanoseconds: f64) -> String {
    match nanoseconds {
        ns if ns >= 1e6 => format!("{:.1} ms", ns / 1e6),
        ns if ns >= 1e4 => format!("{:.1} µs", ns / 1e3),
        ns => format!("{ns:.0} ns"),
    }
}

/// The same routes in a map of the crate `prefix-trie`.
#[derive(Clone, Default)]
struct Baseline {
    v4: PrefixMap<Ipv4Net, Route>,
    v6: PrefixMap<Ipv6Net, Route>,
}

impl Baseline {
    fn insert(&mut self, route: Route) {
        match route.network.net() {
            IpNet::V4(network) => drop(self.v4.insert(network, route)),
            IpNet::V6(network) => drop(self.v6.insert(network, route)),
        }
    }

    fn find(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.v4.get_lpm(&Ipv4Net::from(v4)).is_some(),
            IpAddr::V6(v6) => self.v6.get_lpm(&Ipv6Net::from(v6)).is_some(),
        }
    }
}

fn lookups(snapshot: &Snapshot, baseline: &Baseline, address: fn(u64) -> IpAddr) -> (f64, f64) {
    let mut numbers = Numbers(0x2545_F491_4F6C_DD1D);
    let addresses: Vec<IpAddr> = (0..LOOKUPS).map(|_| address(numbers.next())).collect();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let ours = measure(LOOKUPS, || {
        for address in &addresses {
            black_box(snapshot.route(NETWORK, black_box(*address)).is_some());
        }
    });
    let allocated = ALLOCATIONS.load(Ordering::Relaxed) - before;
    if allocated > 0 {
        println!("{allocated} allocations in look-ups, and there are to be none");
    }
    let theirs = measure(LOOKUPS, || {
        for address in &addresses {
            black_box(baseline.find(black_box(*address)));
        }
    });
    (ours, theirs)
}

fn changes(state: &mut State, baseline: &Baseline, network: IpNet) -> (f64, f64) {
    let mut number = 1;
    let ours = measure(usize::try_from(CHANGES).unwrap(), || {
        let mut shown = state.snapshot();
        for id in 0..CHANGES {
            number += 1;
            let change = Change::RoutePut(route(u128::MAX - id, network));
            state.apply(ChangeBatch { number, changes: vec![change] });
            shown = black_box(state.snapshot());
        }
        drop(shown);
    });
    let theirs = measure(1, || {
        let mut copy = baseline.clone();
        copy.insert(route(u128::MAX, network));
        black_box(&copy);
    });
    (ours, theirs)
}

fn main() {
    println!("{:<58} {:>10} {:>12}", "", "adit", "prefix-trie");
    family("IPv4", v4, [20, 24, 28, 32]);
    family("IPv6", v6, [48, 56, 64, 80]);
}

fn family(family: &str, address: fn(u64) -> IpAddr, lengths: [u8; 4]) {
    for count in [1000, 100_000, 1_000_000] {
        let (mut state, mut baseline) = (State::default(), Baseline::default());
        let routes: Vec<Route> =
            (0..).zip(networks(count, address, lengths)).map(|(id, network)| route(id, network)).collect();
        let taken = routes[0].network.net();
        for route in &routes {
            baseline.insert(route.clone());
        }
        let changes_of_all = routes.into_iter().map(Change::RoutePut).collect();
        state.apply(ChangeBatch { number: 1, changes: changes_of_all });
        let (ours, theirs) = lookups(&state.snapshot(), &baseline, address);
        let over = if ours > 1000.0 { "   at most 1000 ns  OVER" } else { "   at most 1000 ns" };
        let what = format!("the route of an address, {count} {family} routes");
        println!("{what:<58} {:>10} {:>12}{over}", human(ours), human(theirs));
        let (ours, theirs) = changes(&mut state, &baseline, taken);
        let what = format!("a change and its snapshot, {count} {family} routes");
        println!("{what:<58} {:>10} {:>12}", human(ours), human(theirs));
    }
}
