//! The device's resolver: programs ask at an address of the interface, and the edge answers.
//!
//! Queries come as flows to [`RESOLVER_V4`] and [`RESOLVER_V6`] ([`crate::capture`] hands them over); each is carried to the
//! edge on one long-lived stream ([`line`]). Some names are not the edge's to answer: the edges' own, without which it could
//! not be found, and those below the fallback domains that the device's operator or its account names. They go to the resolvers that the system had
//! before ([`outside`]), past every rule. [`system`] points the system here, and back.
//!
//! What always holds: a name that is not a fallback's is asked of the edge or not at all, so that no rule is passed by where
//! the edge is gone; every query is answered, if only that it failed, within [`line::DEADLINE`].

mod line;
mod outside;
pub(crate) mod system;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::str::FromStr;

use adit_model::{Cidr, DomainSuffix, FallbackDomain};
use adit_wire::dns::hickory_proto::op::{Message, ResponseCode};
use adit_wire::dns::{
    self, ExtendedError, MAX_MESSAGE_BYTES, NotResolvable, PORT, RESOLVER_V4, RESOLVER_V6, datagram_limit,
    encode, failure,
};
use tokio::sync::watch;

use crate::carrier::Carrier;
use line::Line;
use outside::Over;

/// Whether the system is pointed to the agent's resolver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SystemDns {
    /// While the device is connected, and back when it is not.
    #[default]
    Auto,
    /// Never: who wants to ask, asks.
    Off,
}

/// A text is no [`SystemDns`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected auto or off")]
pub struct UnknownSystemDns;

impl FromStr for SystemDns {
    type Err = UnknownSystemDns;

    fn from_str(text: &str) -> Result<Self, UnknownSystemDns> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => Err(UnknownSystemDns),
        }
    }
}

/// A domain whose names are resolved outside of the edge and its rules (Gateway semantics, 4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    suffix: DomainSuffix,
    /// Who is asked; the system's former resolvers if nobody is named.
    resolvers: Vec<SocketAddr>,
}

/// A text is no [`Fallback`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FallbackError {
    /// The part before the `=`.
    #[error("expected a domain such as corp.example, not {0:?}")]
    Suffix(String),
    /// The part behind it.
    #[error("expected the address of a resolver behind the =, not {0:?}")]
    Resolver(String),
}

impl FromStr for Fallback {
    type Err = FallbackError;

    /// `SUFFIX` or `SUFFIX=RESOLVER`, which is an address with or without a port.
    fn from_str(text: &str) -> Result<Self, FallbackError> {
        let (suffix, resolver) = text.split_once('=').map_or((text, None), |(suffix, at)| (suffix, Some(at)));
        let name = suffix.parse().map_err(|_| FallbackError::Suffix(suffix.to_owned()))?;
        let resolver =
            resolver.map(|text| dns::resolver(text).ok_or_else(|| FallbackError::Resolver(text.to_owned())));
        Ok(Self { suffix: name, resolvers: resolver.transpose()?.into_iter().collect() })
    }
}

impl std::convert::From<FallbackDomain> for Fallback {
    fn from(domain: FallbackDomain) -> Self {
        let resolvers = domain.servers.into_iter().map(|address| SocketAddr::new(address, PORT)).collect();
        Self { suffix: domain.suffix, resolvers }
    }
}

/// Whether a flow goes to the resolver.
pub(crate) fn is_resolver(destination: SocketAddr) -> bool {
    destination.port() == PORT && addresses().contains(&destination.ip())
}

/// The resolver's addresses.
pub(crate) fn addresses() -> [IpAddr; 2] {
    [RESOLVER_V4.into(), RESOLVER_V6.into()]
}

/// The same as networks, to be routed.
pub(crate) fn networks() -> Vec<Cidr> {
    addresses().into_iter().filter_map(|address| Cidr::new(address.into()).ok()).collect()
}

/// What answers on the device.
pub(crate) struct Names<C> {
    line: Line<C>,
    /// Those of the device's operator.
    fallbacks: Vec<Fallback>,
    /// Those of its account.
    told: Rc<RefCell<Vec<Fallback>>>,
    /// The edges by their names.
    edges: Box<dyn Fn() -> Vec<String>>,
    /// The resolvers that the system had.
    former: Rc<RefCell<Vec<SocketAddr>>>,
}

/// How a query came, and how its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Datagram,
    Stream,
}

impl<C: Carrier + Clone> Names<C> {
    pub(crate) fn new(
        carrier: watch::Receiver<Option<C>>,
        (fallbacks, told): (Vec<Fallback>, Rc<RefCell<Vec<Fallback>>>),
        edges: Box<dyn Fn() -> Vec<String>>,
        former: Rc<RefCell<Vec<SocketAddr>>>,
    ) -> Self {
        Self { line: Line::new(carrier), fallbacks, told, edges, former }
    }

    /// Answers one query. `None` for what is no query.
    pub(crate) async fn answer(&self, bytes: &[u8], from: From) -> Option<Vec<u8>> {
        let query = match dns::query(bytes) {
            Ok(query) => query,
            Err(NotResolvable::NoQuery) => return None,
            Err(NotResolvable::Answer(answer)) => return Some(encode(&answer, MAX_MESSAGE_BYTES)),
        };
        let name = dns::text(&query.queries.first()?.name);
        let answer = match self.outside(&name) {
            Some(resolvers) => {
                let over = if from == From::Datagram { Over::Udp } else { Over::Tcp };
                outside::ask(&resolvers, bytes, &query, over).await
            }
            None => self.line.ask(bytes, &query).await,
        };
        if let Some(answer) = answer {
            return Some(fitting(answer, &query, from));
        }
        let why = Some((ExtendedError::NetworkError, "no resolver can be reached"));
        Some(encode(&failure(&query, ResponseCode::ServFail, why), MAX_MESSAGE_BYTES))
    }

    /// Who is asked for a name that is not the edge's to answer.
    fn outside(&self, name: &str) -> Option<Vec<SocketAddr>> {
        let former = || self.former.borrow().clone();
        let told = self.told.borrow();
        if let Some(closest) = closest(&told, &self.fallbacks, name) {
            let named = !closest.resolvers.is_empty();
            return Some(if named { closest.resolvers.clone() } else { former() });
        }
        (self.edges)().iter().any(|edge| edge == name).then(former)
    }
}

/// The fallback with the longest suffix that holds a name; of two with the same one, that of the device's operator.
fn closest<'f>(of_account: &'f [Fallback], of_operator: &'f [Fallback], name: &str) -> Option<&'f Fallback> {
    let found = of_account.iter().chain(of_operator).filter(|fallback| fallback.suffix.holds(name));
    found.max_by_key(|fallback| fallback.suffix.as_str().len())
}

/// An answer that is longer than a datagram may be goes without its records, so that it is asked for again on a stream.
fn fitting(answer: Vec<u8>, query: &Message, from: From) -> Vec<u8> {
    let limit = datagram_limit(query);
    if from == From::Stream || answer.len() <= limit {
        return answer;
    }
    match Message::from_vec(&answer) {
        Ok(message) => encode(&message, limit),
        Err(_) => encode(&failure(query, ResponseCode::ServFail, None), limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_fallback_is_taken_and_of_two_the_devices_own() {
        let fallbacks =
            |texts: &[&str]| -> Vec<Fallback> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let told = fallbacks(&["corp.example=192.0.2.1", "lan=192.0.2.2"]);
        let own = fallbacks(&["dev.corp.example=192.0.2.3", "lan=192.0.2.4"]);
        let asked = |name: &str| closest(&told, &own, name).map(|one| one.resolvers[0].to_string());
        assert_eq!(asked("a.corp.example").as_deref(), Some("192.0.2.1:53"));
        assert_eq!(asked("a.dev.corp.example").as_deref(), Some("192.0.2.3:53"));
        assert_eq!(asked("printer.lan").as_deref(), Some("192.0.2.4:53"));
        assert_eq!(asked("acorp.example"), None);
    }

    #[test]
    fn a_fallback_is_a_domain_and_perhaps_a_resolver() {
        let fallback: Fallback = ".Corp.Example.=192.0.2.53".parse().unwrap();
        assert_eq!(fallback.resolvers, ["192.0.2.53:53".parse().unwrap()]);
        let v6: Fallback = "local=[2001:db8::53]:5353".parse().unwrap();
        assert_eq!(v6.resolvers, ["[2001:db8::53]:5353".parse().unwrap()]);
        for wrong in ["", ".", "a..b", "a b", "a=", "a=b"] {
            assert!(wrong.parse::<Fallback>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_resolver_is_port_53_of_two_addresses() {
        assert!(is_resolver("100.80.0.53:53".parse().unwrap()));
        assert!(is_resolver("[fd61:6469:7400::53]:53".parse().unwrap()));
        assert!(!is_resolver("100.80.0.53:54".parse().unwrap()));
        assert!(!is_resolver("100.80.0.54:53".parse().unwrap()));
    }
}
