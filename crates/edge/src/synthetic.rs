//! Addresses that stand for names (Gateway semantics, 4.5).
//!
//! A name of a hostname route has no address that a device's packets could be routed by: it may be any address of the private
//! network, and another route's too. So a device that asks for one is told an address of a network that is nobody's, and
//! what it sends there is carried to what the name stands for, through the route's tunnel.
//!
//! What holds: an address stands for one name of one device, for at least [`KEPT`] after it was told or used last; a name has
//! the same address on every device, node and day, unless another name of the device has that one already, so that a program
//! that goes on using it reaches the same name, or nothing; a device has at most [`MAX_NAMES`] names. Which rules hold for a
//! name, and where it leads, is not kept here: both are looked up for each flow.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_model::{Cidr, RegistrationId};
use adit_wire::dns::{SYNTHETIC_V4, SYNTHETIC_V6};
use sha2::{Digest, Sha256};

/// For how long an address stands for its name, at least.
const KEPT: Duration = Duration::from_mins(5);
/// Names of a device at once.
const MAX_NAMES: usize = 8192;
/// How many addresses a name is tried with.
const TRIES: u8 = 16;
/// How often what stands for nothing any more is looked for.
const SWEEP: Duration = Duration::from_mins(1);

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(crate) fn holds(self, address: &IpAddr) -> bool {
        Self::of(*address) == self
    }
}

/// Whether an address may stand for a name.
pub(crate) fn is_synthetic(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets()[..2] == SYNTHETIC_V4.0.octets()[..2] && v4.octets()[2] != 0,
        IpAddr::V6(v6) => v6.octets()[..8] == SYNTHETIC_V6.0.octets()[..8],
    }
}

/// The networks of such addresses, which a device with hostname routes is to capture.
pub(crate) fn networks() -> impl Iterator<Item = Cidr> {
    let (v4, v6) = (SYNTHETIC_V4, SYNTHETIC_V6);
    [format!("{}/{}", v4.0, v4.1), format!("{}/{}", v6.0, v6.1)]
        .into_iter()
        .filter_map(|text| text.parse().ok())
}

/// What stands for what, for every device.
#[derive(Debug)]
pub(crate) struct Synthetic(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    devices: HashMap<RegistrationId, HashMap<IpAddr, Entry>>,
    swept: Instant,
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    until: Instant,
}

impl Synthetic {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Inner { devices: HashMap::new(), swept: now }))
    }

    /// The address that stands for a name from now on, for at least as long as `lasts`; none if the device has as many names
    /// as it may.
    pub(crate) fn stand_in(
        &self,
        device: RegistrationId,
        name: &str,
        family: Family,
        lasts: Duration,
        now: Instant,
    ) -> Option<IpAddr> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.sweep(now);
        let names = inner.devices.entry(device).or_default();
        let until = now + lasts.max(KEPT);
        let has_room = names.len() < MAX_NAMES;
        let tries = (0..TRIES).map(|attempt| address_of(name, family, attempt));
        for address in tries {
            match names.get_mut(&address) {
                Some(entry) if &*entry.name == name => {
                    entry.until = entry.until.max(until);
                    return Some(address);
                }
                Some(entry) if entry.until > now => {}
                Some(entry) => {
                    *entry = Entry { name: name.into(), until };
                    return Some(address);
                }
                None if has_room => {
                    names.insert(address, Entry { name: name.into(), until });
                    return Some(address);
                }
                None => return None,
            }
        }
        None
    }

    /// A flow has ended that went to this address, which goes on to stand for its name.
    pub(crate) fn used(&self, device: RegistrationId, address: IpAddr, now: Instant) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = inner.devices.get_mut(&device).and_then(|names| names.get_mut(&address)) {
            entry.until = entry.until.max(now + KEPT);
        }
    }

    /// The name that an address stands for, which it goes on to do. `exact` are the names of a device's account that stand in
    /// a route as they are: one of them may have been told by another node, or before this one started.
    pub(crate) fn name_of<'n>(
        &self,
        device: RegistrationId,
        address: IpAddr,
        exact: impl Iterator<Item = &'n str>,
        now: Instant,
    ) -> Option<Arc<str>> {
        let address = address.to_canonical();
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = inner.devices.get_mut(&device).and_then(|names| names.get_mut(&address));
        if let Some(entry) = known.filter(|entry| entry.until > now) {
            entry.until = entry.until.max(now + KEPT);
            return Some(Arc::clone(&entry.name));
        }
        drop(inner);
        let family = Family::of(address);
        let name = exact.take(MAX_NAMES).find(|name| address_of(name, family, 0) == address)?;
        let again = self.stand_in(device, name, family, KEPT, now)?;
        (again == address).then(|| name.into())
    }
}

impl Inner {
    fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        self.devices.retain(|_, names| {
            names.retain(|_, entry| entry.until > now);
            !names.is_empty()
        });
    }
}

/// The address that a name is tried with first, second, and so on.
fn address_of(name: &str, family: Family, attempt: u8) -> IpAddr {
    let digest = Sha256::new().chain_update([attempt]).chain_update(name).finalize();
    let bits = digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    match family {
        Family::V4 => {
            // Not the first 256, of which the resolver's is one.
            let [a, b, ..] = SYNTHETIC_V4.0.octets();
            let [c, d] = u16::try_from(bits % 0xff00).unwrap_or_default().to_be_bytes();
            Ipv4Addr::new(a, b, c + 1, d).into()
        }
        Family::V6 => {
            let network = u128::from(SYNTHETIC_V6.0);
            Ipv6Addr::from(network | u128::from(bits)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const LAPTOP: RegistrationId = RegistrationId::from_uuid(Uuid::from_u128(1));
    const OTHER: RegistrationId = RegistrationId::from_uuid(Uuid::from_u128(2));

    fn told(synthetic: &Synthetic, name: &str, now: Instant) -> IpAddr {
        synthetic.stand_in(LAPTOP, name, Family::V4, Duration::ZERO, now).unwrap()
    }

    fn name(synthetic: &Synthetic, address: IpAddr, now: Instant) -> Option<Arc<str>> {
        synthetic.name_of(LAPTOP, address, std::iter::empty(), now)
    }

    #[test]
    fn an_address_stands_for_the_name_of_the_device_that_asked_until_it_was_long_unused() {
        let now = Instant::now();
        let synthetic = Synthetic::new(now);
        let address = told(&synthetic, "wiki.corp.internal", now);
        assert!(is_synthetic(address));
        assert_eq!(told(&synthetic, "wiki.corp.internal", now), address);
        assert_eq!(name(&synthetic, address, now).as_deref(), Some("wiki.corp.internal"));
        assert_eq!(synthetic.name_of(OTHER, address, std::iter::empty(), now), None);
        // A use puts the end off.
        let used = now + KEPT.saturating_sub(Duration::from_secs(1));
        assert!(name(&synthetic, address, used).is_some());
        assert!(name(&synthetic, address, used + KEPT.saturating_sub(Duration::from_secs(1))).is_some());
        assert!(name(&synthetic, address, used + 2 * KEPT).is_none());
    }

    #[test]
    fn a_name_of_a_route_is_known_by_its_address_where_nobody_asked_for_it() {
        let now = Instant::now();
        let address = told(&Synthetic::new(now), "wiki.corp.internal", now);
        let elsewhere = Synthetic::new(now);
        let routes = ["api.corp.internal", "wiki.corp.internal"];
        let found = elsewhere.name_of(LAPTOP, address, routes.into_iter(), now);
        assert_eq!(found.as_deref(), Some("wiki.corp.internal"));
        assert_eq!(name(&elsewhere, address, now), found);
        let other = if address == IpAddr::from([100, 80, 9, 9]) { [100, 80, 9, 8] } else { [100, 80, 9, 9] };
        assert_eq!(elsewhere.name_of(LAPTOP, other.into(), routes.into_iter(), now), None);
    }

    #[test]
    fn names_of_a_device_have_an_address_each_and_no_more_than_it_may_have() {
        let now = Instant::now();
        let synthetic = Synthetic::new(now);
        let names: Vec<String> = (0..MAX_NAMES).map(|number| format!("{number}.corp.internal")).collect();
        let addresses: Vec<IpAddr> = names.iter().map(|name| told(&synthetic, name, now)).collect();
        for (name_, address) in names.iter().zip(&addresses) {
            assert_eq!(name(&synthetic, *address, now).as_deref(), Some(name_.as_str()));
        }
        let more = |now| synthetic.stand_in(LAPTOP, "more.internal", Family::V6, Duration::ZERO, now);
        assert_eq!(more(now), None);
        assert!(more(now + 2 * KEPT).is_some(), "what stood for nothing any more has made room");
    }

    #[test]
    fn every_address_that_is_told_is_one_that_stands_for_names() {
        for number in 0..2000 {
            for family in [Family::V4, Family::V6] {
                let address = address_of(&format!("{number}.example"), family, 0);
                assert!(is_synthetic(address) && family.holds(&address), "{address}");
            }
        }
        let told: Vec<String> = networks().map(|network| network.to_string()).collect();
        assert_eq!(told, ["100.80.0.0/16", "fd61:6469:7400:4000::/64"]);
        for other in ["100.80.0.53", "100.81.0.1", "fd61:6469:7400::53", "::ffff:100.80.0.53"] {
            assert!(!is_synthetic(other.parse().unwrap()), "{other}");
        }
    }
}
